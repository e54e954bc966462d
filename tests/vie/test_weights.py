import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vie import VieError, create_model, load_matching
from vie.weights import read_state_dict


def test_trn_begins_from_single():
    single, trn = create_model("vie_single_r18", width=4), create_model("vie_trn_r18", width=4)
    head = trn.head.weight.clone()
    match = load_matching(trn, single.state_dict())
    assert match.misshapen == ("head.weight",)
    assert match.missing == match.unexpected == ()
    assert torch.equal(trn.trunk.stem.weight, single.trunk.stem.weight)
    assert torch.equal(trn.head.weight, head)
    assert str(match) == f"{len(trn.state_dict()) - 1} tensors loaded; 1 misshapen (head.weight)"


def test_every_tensor_is_accounted_for():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    offered = {"0.weight": torch.ones(3, 2), "0.bias": torch.ones(5), **{f"other.{n}": torch.ones(1) for n in range(7)}}
    match = load_matching(model, offered)
    assert match.loaded == ("0.weight",)
    assert match.misshapen == ("0.bias",)
    assert match.missing == ("1.weight", "1.bias")
    assert len(match.unexpected) == 7
    assert "7 unexpected (other.0, other.1, other.2, other.3, other.4 and 2 more)" in str(match)
    after = model.state_dict()
    assert torch.equal(after["0.weight"], offered["0.weight"])
    assert all(torch.equal(after[name], before[name]) for name in (*match.missing, *match.misshapen))


def test_nothing_fits():
    with pytest.raises(VieError, match=r"no weights fit .*: rename the weights"):
        load_matching(torch.nn.Linear(2, 3), {"trunk.weight": torch.ones(3, 2)})


def test_scalars_and_vectors_are_no_fit():
    """Of another width, the counters of batch norm and the head's bias fit, and nothing that carries weight."""
    wide, narrow = create_model("vie_single_r18", width=8), create_model("vie_single_r18", width=4)
    before = {name: value.clone() for name, value in narrow.state_dict().items()}
    with pytest.raises(VieError, match=r"no weights fit \(18 tensors loaded; 90 misshapen"):
        load_matching(narrow, wide.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in narrow.state_dict().items())


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def write_safetensors(weights: dict, path: Path) -> Path:
    save_file(weights, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def write_legacy(weights: dict, path: Path) -> Path:
    torch.save(weights, path.with_suffix(".pth"), _use_new_zipfile_serialization=False)
    return path.with_suffix(".pth")


def write_zip(weights: dict, path: Path) -> Path:
    torch.save(weights, path.with_suffix(".pt"))
    return path.with_suffix(".pt")


@pytest.mark.parametrize("write", [write_safetensors, write_legacy, write_zip])
def test_reads_every_kind_of_file(tmp_path, write):
    weights = network().state_dict()
    found = read_state_dict(write(weights, tmp_path / "weights"))
    assert list(sorted(found)) == sorted(weights)
    assert all(torch.equal(value, weights[name]) for name, value in found.items())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state", "model_state_dict", "net", "teacher"])
def test_checkpoints_are_unwrapped(tmp_path, wrapper, prefix):
    weights = network().state_dict()
    wrapped = {f"{prefix}{name}": value for name, value in weights.items()}
    path = write_zip({"epoch": 3, wrapper: wrapped, "optimizer": {"lr": 0.1}}, tmp_path / "checkpoint")
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    match = load_matching(model, read_state_dict(path))
    assert match.missing == match.unexpected == match.misshapen == ()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"epoch": 3, "weights": {}}, r"holds a int as 'epoch', no tensor: save the state dict alone"),
        ({"state_dict": {"weight": torch.ones(2), "bias": None}}, r"holds a NoneType as 'bias', no tensor"),
        ({0: torch.ones(2)}, r"holds a Tensor as 0, no tensor"),
        (
            {"teacher": {"a": torch.ones(2)}, "student": {"a": torch.ones(2)}},
            r"holds weights as teacher, student: save",
        ),
        ({"a": torch.ones(2), "ema": {"a": torch.ones(2)}}, r"holds a dict as 'ema', no tensor"),
        ([torch.ones(2)], r"holds no weights by name"),
        ({}, r"holds no weights by name"),
    ],
)
def test_what_is_no_state_dict(tmp_path, content, words):
    with pytest.raises(VieError, match=words):
        read_state_dict(write_zip(content, tmp_path / "weights"))


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors", ".ckpt"])
@pytest.mark.parametrize("write", [pickle.dump, torch.save])
def test_hostile_pickles_are_refused_and_not_run(tmp_path, suffix, write, table):
    path, trace = (tmp_path / "weights").with_suffix(suffix), tmp_path / "trace"
    with path.open("wb") as file:
        write({"state_dict": {"weight": Touch(trace)}}, file)
    with pytest.raises(VieError, match="cannot be read as weights") as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)
    assert not trace.exists()
    written = "torch.save" if write is torch.save else "pickle"
    table("jobs", fault=f"weights that run code, {written}, as {suffix}", outcome="refused, and nothing was run")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", bytes(range(256)) * 20])
def test_damaged_files(tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(VieError, match=r"weights\.pth cannot be read as weights"):
        read_state_dict(path)
    with pytest.raises(VieError, match=r"absent\.pth cannot be read as weights"):
        read_state_dict(tmp_path / "absent.pth")
