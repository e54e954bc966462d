import pytest
import torch

from vie import VieError, create_model, load_matching


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
    with pytest.raises(VieError, match=r"no tensor fits .*: rename the weights"):
        load_matching(torch.nn.Linear(2, 3), {"trunk.weight": torch.ones(3, 2)})
