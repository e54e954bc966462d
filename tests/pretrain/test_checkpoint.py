"""Checkpoints alone, without a run: written beside the caller, and whole or not at all."""

import contextlib
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pretrain import checkpoint
from pretrain.checkpoint import FACTS_NAME, PARTIAL, Checkpoints, read_facts
from pretrain.checkpoint_writer import Writer
from vie import VieError
from vie.distributed import ALONE

PATIENCE = 60
"""Seconds; only a fault takes as long."""


def some_state(seed: int) -> dict[str, Tensor]:
    """Of several types and layouts."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(4, 3, 5, 5, generator=draw)
    return {
        "weight": weight.contiguous(memory_format=torch.channels_last),
        "half": torch.randn(7, generator=draw).bfloat16(),
        "labels": torch.randint(9, (2, 30), generator=draw),
        "count": torch.tensor(seed),
        "none": torch.zeros(0, 3),
        "bank": torch.randn(400, 16, generator=draw)[::2].T,
    }


def opened(run: Path) -> Checkpoints:
    return Checkpoints(run, ALONE, torch.device("cpu"), keep=2)


def keep(checkpoints: Checkpoints, step: int, state: dict[str, Tensor]) -> None:
    """Writes a checkpoint and waits for it."""
    checkpoints.save(step, state, {})
    checkpoints.finish()


def assert_holds(checkpoints: Checkpoints, step: int, expected: dict[str, Tensor]) -> None:
    """The newest checkpoint is that of a step, and holds a state."""
    newest = checkpoints.latest()
    assert newest is not None
    assert read_facts(newest)["step"] == step
    found = {name: torch.ones_like(tensor) for name, tensor in expected.items()}
    checkpoints.load(newest, found)
    assert not [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextlib.contextmanager
def full_disk() -> Iterator[Callable[[int], None]]:
    """A function after which no file may grow beyond a number of bytes, until the end of the context."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class SlowDisk:
    """Lets no checkpoint be written before it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.release = threading.Event(), threading.Event()
        write_data = Writer.write_data

        def write(writer: Writer, plan, planner):
            self.begun.set()
            assert self.release.wait(PATIENCE), "nobody goes on while a checkpoint is written"
            return write_data(writer, plan, planner)

        monkeypatch.setattr(Writer, "write_data", write)


class TestBesideTheCaller:
    def test_what_is_written_is_the_state_of_the_call(self, tmp_path, monkeypatch):
        disk = SlowDisk(monkeypatch)
        checkpoints, state = opened(tmp_path), some_state(1)
        checkpoints.save(1, state, {})
        assert disk.begun.wait(PATIENCE)
        # Here save has returned, and nothing is written.
        for tensor in state.values():
            tensor.zero_()
        checkpoints.poll()
        assert checkpoints.latest() is None
        disk.release.set()
        checkpoints.finish()
        assert_holds(checkpoints, 1, some_state(1))

    def test_the_next_one_waits_until_the_one_before_is_in_its_place(self, tmp_path, monkeypatch):
        disk = SlowDisk(monkeypatch)
        checkpoints = opened(tmp_path)
        checkpoints.save(1, some_state(1), {})
        copied = checkpoints._copied
        before: list[list[str]] = []

        def copy(name, value):
            before.append(sorted(path.name for path in checkpoints.folder.iterdir()))
            return copied(name, value)

        monkeypatch.setattr(checkpoints, "_copied", copy)
        threading.Timer(0.1, disk.release.set).start()
        checkpoints.save(2, some_state(2), {})
        # Its copies take the memory of those before, which must be on the disk by then.
        assert before[0] == ["step-000000001"]
        checkpoints.finish()
        assert_holds(checkpoints, 2, some_state(2))
        shutil.rmtree(checkpoints.folder / "step-000000002")
        assert_holds(checkpoints, 1, some_state(1))

    def test_tensors_of_another_shape_or_type(self, tmp_path):
        checkpoints = opened(tmp_path)
        for step, tensor in enumerate([torch.ones(3), torch.arange(5.0), torch.arange(5), torch.arange(2)]):
            keep(checkpoints, step, {"one": tensor})
            assert_holds(checkpoints, step, {"one": tensor})

    def test_nothing_is_copied_twice(self, tmp_path, monkeypatch):
        written: list[int] = []
        write_data = Writer.write_data

        def write(writer: Writer, plan, planner):
            written.extend(planner.resolve_data(item).data_ptr() for item in plan.items)
            return write_data(writer, plan, planner)

        monkeypatch.setattr(Writer, "write_data", write)
        checkpoints = opened(tmp_path)
        keep(checkpoints, 1, some_state(1))
        assert sorted(written) == sorted(tensor.data_ptr() for tensor in checkpoints._host.values())


def test_so_many_are_kept(tmp_path):
    checkpoints = opened(tmp_path)
    with checkpoints:
        for step in range(4):
            keep(checkpoints, step, some_state(step))
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["step-000000002", "step-000000003"]
    assert_holds(checkpoints, 3, some_state(3))


class TestFaults:
    @pytest.mark.parametrize("fault", ["disk full", "disk full at the end", "not begun", "no number", "infinite"])
    def test_those_before_are_as_they_were(self, tmp_path, monkeypatch, fault):
        checkpoints = opened(tmp_path)
        keep(checkpoints, 1, some_state(1))
        before = contents(checkpoints.folder)
        bad = some_state(2)
        with monkeypatch.context() as patch, full_disk() as limit:
            if fault == "disk full":
                limit(max(map(len, before.values())) // 2)
            elif fault == "disk full at the end":
                limit(len(before[f"step-000000001/{FACTS_NAME}"]) // 2)
                patch.setattr(Writer, "write_data", _written_without_limit(limit))
            elif fault == "not begun":
                patch.setattr(checkpoint.dcp, "async_save", _no_space)
            else:
                bad["half"][3] = float("nan" if fault == "no number" else "-inf")
            with pytest.raises(VieError) as caught:
                keep(checkpoints, 2, bad)
        expected = {"no number": "half is no number, and no checkpoint is made of it", "infinite": "half is no number"}
        assert expected.get(fault, "free some space and start the same command again") in str(caught.value)
        assert "\n" not in str(caught.value)
        assert contents(checkpoints.folder) == before
        assert not list(checkpoints.folder.glob(f"*{PARTIAL}"))
        assert_holds(checkpoints, 1, some_state(1))
        keep(checkpoints, 2, some_state(2))
        assert_holds(checkpoints, 2, some_state(2))

    def test_what_ends_a_run_leaves_the_checkpoint_that_is_being_written(self, tmp_path, monkeypatch):
        disk = SlowDisk(monkeypatch)
        checkpoints = opened(tmp_path)
        threading.Timer(0.1, disk.release.set).start()

        def train() -> None:
            with checkpoints:
                checkpoints.save(1, some_state(1), {})
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            train()
        assert_holds(checkpoints, 1, some_state(1))

    def test_half_a_checkpoint_is_none(self, tmp_path):
        """As a process leaves it that was killed while it wrote, even before the last rename."""
        checkpoints = opened(tmp_path)
        keep(checkpoints, 1, some_state(1))
        half = checkpoints.folder / f"step-000000002{PARTIAL}"
        shutil.copytree(checkpoints.folder / "step-000000001", half)
        assert_holds(opened(tmp_path), 1, some_state(1))
        with opened(tmp_path):
            assert not half.exists()


def _written_without_limit(limit):
    """The tensors find room, and what is written after them does not."""
    write_data = Writer.write_data

    def write(writer, plan, planner):
        size, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
        limit(resource.RLIM_INFINITY)
        written = write_data(writer, plan, planner)
        limit(size)
        return written

    return write


def _no_space(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")
