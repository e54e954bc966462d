import importlib.util

import pytest
import torch

from pretrain.config import ModelConfig
from pretrain.settings import parse_config
from pretrain.train import Trainer
from tests.conftest import tiny_run
from vie import VieError, load

NEEDS_TIMM = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
TRUNKS = [
    pytest.param("torchvision_mc3_18", ["data.frames=4"], id="mc3"),
    pytest.param("timm_vit_tiny_patch16_224", ["data.size=32"], id="vit", marks=NEEDS_TIMM),
]


def settings(corpus, run, name, *more):
    tiny = tiny_run(corpus, run, "runtime.channels_last=true", "monitor.knn_every=0", *more)
    return parse_config([], [*tiny, f"model.name={name}"])


@pytest.mark.parametrize(("name", "clip"), TRUNKS)
def test_a_run_trains_it(tiny_corpus, tmp_path, name, clip):
    run = tmp_path / "run"
    short = ["instance_recognition.steps=2", "local_aggregation.steps=1", "model.width=null"]
    job = Trainer(settings(tiny_corpus, run, name, *clip, *short))
    before = {at: parameter.detach().clone() for at, parameter in job.model.named_parameters()}
    job.train()
    assert all(not torch.equal(parameter, before[at]) for at, parameter in job.model.named_parameters())
    encoder = load(run / "encoder-la")
    assert encoder.model.model_name == name
    assert encoder.model.arguments == {"embed_dim": 16}
    trained = job.model.state_dict()
    assert all(torch.equal(value, trained[at].cpu()) for at, value in encoder.model.state_dict().items())


@pytest.mark.parametrize(("name", "clip"), TRUNKS)
def test_width_is_refused(tiny_corpus, tmp_path, name, clip):
    with pytest.raises(VieError, match=r"cannot be built with .*'width': 4"):
        Trainer(settings(tiny_corpus, tmp_path / "run", name, *clip))


def test_width_is_passed_only_if_set():
    assert ModelConfig(embed_dim=8).arguments() == {"embed_dim": 8}
    assert ModelConfig(embed_dim=8, width=16).arguments() == {"embed_dim": 8, "width": 16}
    assert parse_config([], ["model.width=16", "model.width=null"]).model.width is None
    with pytest.raises(VieError, match=r"model\.width=0 is out of range"):
        parse_config([], ["model.width=0"])
