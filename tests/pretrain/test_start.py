import pytest
import torch
from torchvision.models import video

from pretrain.settings import parse_config
from pretrain.start import begin_from
from pretrain.train import Trainer
from tests.conftest import tiny_run
from vie import Stream, VieError, create_model, load, save_pretrained


def small(name: str, width: int = 4, embed_dim: int = 8) -> Stream:
    return create_model(name, width=width, embed_dim=embed_dim)


def saved(model: Stream, folder) -> str:
    save_pretrained(model, folder, model.sampling)
    return str(folder)


@pytest.mark.parametrize("name", ["vie_trn_r18", "vie_trn_relation_r18"])
def test_the_whole_trunk_is_filled(tmp_path, name):
    single, trn = small("vie_single_r18"), small(name)
    new = {at: value.clone() for at, value in trn.state_dict().items() if at.startswith(("head.weight", "relations."))}
    match = begin_from(trn, saved(single, tmp_path))
    trunk, begun = single.trunk.state_dict(), trn.trunk.state_dict()
    assert set(trunk) == set(begun)
    assert all(torch.equal(value, trunk[at]) for at, value in begun.items())
    assert {f"trunk.{at}" for at in trunk} <= set(match.loaded)
    assert set(match.missing) | set(match.misshapen) == set(new) - (set(new) & set(match.loaded))
    assert all(torch.equal(trn.state_dict()[at], value) for at, value in new.items() if at not in match.loaded)


@pytest.mark.parametrize(
    ("source", "target", "unfilled"),
    [
        (("vie_resnet3d_r18", 4), ("vie_single_r18", 4), r"trunk\.stem\.weight, .* and \d+ more are missing"),
        (("vie_fast_r18", 32), ("vie_slow_r18", 4), r"trunk\.stem\.weight, .* are missing or misshapen"),
    ],
)
def test_other_networks_are_refused(tmp_path, source, target, unfilled):
    """Norms and the head of another network fit, and no convolution does."""
    folder = saved(small(*source), tmp_path)
    with pytest.raises(VieError, match=rf"does not fill the trunk of {target[0]}: {unfilled}"):
        begin_from(small(*target), folder)


def test_another_width_is_refused(tmp_path, tiny_corpus):
    folder = saved(small("vie_single_r18", width=8), tmp_path / "wide")
    with pytest.raises(VieError, match=r"no weights fit \(18 tensors loaded"):
        Trainer(parse_config([], tiny_run(tiny_corpus, tmp_path / "run", "model.embed_dim=8", f"model.start={folder}")))
    assert not (tmp_path / "run").exists()


def test_one_missing_tensor_is_named(tmp_path):
    single = small("vie_single_r18")
    weights = single.state_dict()
    del weights["trunk.stages.1.0.norm2.bias"]
    torch.save(weights, tmp_path / "weights.pt")
    with pytest.raises(VieError, match=r"trunk of vie_single_r18: trunk\.stages\.1\.0\.norm2\.bias are missing"):
        begin_from(small("vie_single_r18"), str(tmp_path / "weights.pt"))


def test_counters_of_batches_may_be_missing(tmp_path):
    single, model = small("vie_single_r18"), small("vie_single_r18")
    weights = {at: value for at, value in single.state_dict().items() if "num_batches" not in at}
    torch.save(weights, tmp_path / "weights.pt")
    begin_from(model, str(tmp_path / "weights.pt"))
    assert all(torch.equal(model.state_dict()[at], value) for at, value in weights.items())


def test_a_network_within_a_larger_one(tmp_path):
    """As lightly and MoCo save theirs: the trunk beside a projection head and a copy of itself."""
    peer, other = video.mc3_18(), video.mc3_18()
    larger = {
        **{f"backbone.{at}": value for at, value in peer.state_dict().items() if not at.startswith("fc.")},
        **{f"backbone_momentum.{at}": value for at, value in other.state_dict().items()},
        "projection_head.layers.0.weight": torch.zeros(8, 512),
    }
    torch.save(larger, tmp_path / "larger.pth")
    model = create_model("torchvision_mc3_18", embed_dim=8)
    begin_from(model, str(tmp_path / "larger.pth"), "trunk.", "backbone.")
    begun = model.trunk.state_dict()
    assert all(torch.equal(value, begun[at]) for at, value in peer.state_dict().items() if not at.startswith("fc."))
    with pytest.raises(VieError, match=r"no weights begin with 'encoder\.', but backbone\.stem\.0\.weight, "):
        begin_from(model, str(tmp_path / "larger.pth"), "trunk.", "encoder.")


def test_a_run_begins_from_a_file_of_another_library(tiny_corpus, tmp_path):
    peer = video.mc3_18()
    wrapped = {"epoch": 3, "state_dict": {f"module.{at}": value for at, value in peer.state_dict().items()}}
    torch.save(wrapped, tmp_path / "peer.pth")
    settings = [
        "model.name=torchvision_mc3_18",
        "model.width=null",
        "data.frames=2",
        "instance_recognition.steps=1",
        "local_aggregation.steps=0",
        f"model.start={tmp_path / 'peer.pth'}",
    ]
    run = tmp_path / "run"
    with pytest.raises(VieError, match="or give a prefix"):
        Trainer(parse_config([], tiny_run(tiny_corpus, run, *settings)))
    job = Trainer(parse_config([], tiny_run(tiny_corpus, run, *settings, "model.start_prefix=trunk.")))
    begun = job.model.trunk.state_dict()
    assert all(torch.equal(value, begun[at]) for at, value in peer.state_dict().items() if not at.startswith("fc."))
    job.train()
    encoder = load(run / "encoder-ir")
    assert "2 unexpected (trunk.fc.weight, trunk.fc.bias)" in encoder.card["training"]["start"]
    assert encoder.card["preprocessing"]["mean"] == [0.43216, 0.394666, 0.37645]
