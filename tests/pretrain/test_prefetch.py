"""Workers that die or hang; the items are files of their own numbers, so that processes can leave traces."""

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import _utils

from pretrain.data import prefetch
from vie import VieError


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(prefetch, "LOOK_EVERY", 0.5)
    monkeypatch.setattr(_utils, "MP_STATUS_CHECK_INTERVAL", 0.5)  # for which a worker that hangs is waited for


class Items:
    """The squares of numbers, one of which ends its worker as often as ``times`` says."""

    def __init__(self, folder: Path, fatal: int, times: int, hangs: bool = False) -> None:
        self.folder, self.fatal, self.times, self.hangs = folder, fatal, times, hangs

    def __len__(self) -> int:
        return 20

    def __getitem__(self, number: int) -> torch.Tensor:
        if number == self.fatal:
            tries = len(list(self.folder.iterdir()))
            if tries < self.times:
                (self.folder / str(tries)).touch()
                if self.hangs:
                    time.sleep(60)
                os.kill(os.getpid(), signal.SIGKILL)
        return torch.tensor(number**2)


class Priorities:
    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int) -> int:
        return os.getpriority(os.PRIO_PROCESS, 0)


def test_workers_give_way_to_the_process_that_trains():
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert all(found > own for found in prefetch.stream(Priorities(), range(4), workers=1))
    assert os.getpriority(os.PRIO_PROCESS, 0) == own


@pytest.mark.parametrize("fatal", [3, 4, 19])
def test_a_killed_worker_is_started_again(tmp_path, fatal, caplog, table):
    items = Items(tmp_path, fatal, times=1)
    found = list(prefetch.stream(items, range(3, 20), workers=2))
    assert [int(item) for item in found] == [number**2 for number in range(3, 20)]
    assert "workers are started again" in caplog.text
    table("jobs", fault=f"loader worker killed at item {fatal}", outcome="workers started again, every item in order")


def test_a_hanging_worker_is_started_again(tmp_path, monkeypatch, table):
    monkeypatch.setattr(prefetch, "TIMEOUT", 2.0)
    # Seconds that a DataLoader waits for the end of a worker before it is killed.
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.5, raising=False)
    items = Items(tmp_path, 7, times=1, hangs=True)
    began = time.monotonic()
    assert [int(item) for item in prefetch.stream(items, range(20), workers=2)] == [n**2 for n in range(20)]
    assert time.monotonic() - began < 30
    table("jobs", fault="loader worker never returns", outcome="workers started again, every item in order")


def test_workers_that_always_die_end_the_run(tmp_path, table):
    items = Items(tmp_path, 5, times=99)
    found: list[int] = []
    with pytest.raises(VieError, match="end again and again") as caught:
        found.extend(int(item) for item in prefetch.stream(items, range(20), workers=2))
    assert found == [number**2 for number in range(len(found))]
    # A first death may take items with it that were not asked for yet.
    assert prefetch.STARTS <= len(list(tmp_path.iterdir())) <= prefetch.STARTS + 2
    table("jobs", fault="loader workers killed again and again", outcome=f"ended: {caught.value}")


def test_a_fault_of_an_item_is_raised_as_it_is(tmp_path, caplog):
    class Faulty(Items):
        def __getitem__(self, number: int) -> torch.Tensor:
            raise RuntimeError("a fault of ours")

    with pytest.raises(RuntimeError, match="a fault of ours"):
        next(prefetch.stream(Faulty(tmp_path, 0, 0), range(3), workers=1))
    assert not caplog.records


def test_another_default_of_starting_processes_changes_nothing(tmp_path):
    """TorchRL, imported, makes spawn the default; what is not a module's own could not be sent then."""

    class Local(Items):
        pass

    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        found = list(prefetch.stream(Local(tmp_path, 0, 0), range(4), workers=1))
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert [int(item) for item in found] == [0, 1, 4, 9]


class WithCauseError(VieError):
    """An error that is sent with its cause, as tblib has all errors sent once Dask is imported."""

    def __reduce__(self):
        return WithCauseError, self.args, {"__cause__": self.__cause__}


def test_an_error_whose_cause_cannot_be_sent_arrives(tmp_path):
    class Unsendable(Items):
        def __getitem__(self, number: int) -> torch.Tensor:
            raise WithCauseError("the server is away") from OSError(threading.Lock())

    with pytest.raises(WithCauseError, match="the server is away"):
        next(prefetch.stream(Unsendable(tmp_path, 0, 0), range(3), workers=1))


def test_a_worker_that_dies_meanwhile_disturbs_nobody(tmp_path):
    """Not even while the main thread is busy with the item before."""
    before = signal.getsignal(signal.SIGCHLD)
    found = []
    for item in prefetch.stream(Items(tmp_path, 6, times=1), range(20), workers=1):
        found.append(int(item))
        time.sleep(0.1)
    assert found == [number**2 for number in range(20)]
    assert signal.getsignal(signal.SIGCHLD) == before


def test_several_deaths_far_apart_are_survived(tmp_path):
    class Often(Items):
        def __getitem__(self, number: int) -> torch.Tensor:
            mark = self.folder / str(number)
            if number % 4 == 3 and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return torch.tensor(number**2)

    found = list(prefetch.stream(Often(tmp_path, -1, 0), range(20), workers=1))
    assert [int(item) for item in found] == [number**2 for number in range(20)]
    assert len(list(tmp_path.iterdir())) == 5
