import copy
import math
import re

import pytest
import torch
from torch import nn

from pretrain.config import RuntimeConfig
from pretrain.runtime import (
    resolve_device,
    resolve_precision,
    synchronise_batch_norm,
    training_forward,
    use_channels_last,
    warn_if_slow,
)
from tests.conftest import NEEDS_GPU
from tests.pretrain.test_train import trained
from vie import VieError, create_model

SHAPE = (8, 3, 16, 48, 48)
FAST = ("compile", "cuda_graph", "compile+cuda_graph")
GPU_MODES = [pytest.param(mode, marks=NEEDS_GPU) for mode in ("eager", *FAST)]


def stream(device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    model = create_model("vie_resnet3d_r18", embed_dim=16, width=16).to(device).train()
    use_channels_last(model, device)
    return model


def step_of(model: nn.Module, forward, clip: torch.Tensor) -> torch.Tensor:
    """Gradients of every parameter in one vector, for a loss that all dimensions of the embedding enter."""
    model.zero_grad(set_to_none=True)
    embedding = forward(clip)
    weight = torch.linspace(-1, 1, embedding.numel(), device=embedding.device).view_as(embedding)
    (embedding.float() * weight).sum().backward()
    return torch.cat([parameter.grad.float().flatten() for parameter in model.parameters()])


def likeness(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one.flatten().double(), other.flatten().double(), dim=0))


@NEEDS_GPU
@pytest.mark.parametrize("mode", FAST)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_mode_makes_the_same_step_as_eager(mode, precision):
    device = torch.device("cuda")
    clips = [torch.randn(SHAPE, device=device) for _ in range(2)]
    exact, reference, model = (stream(device) for _ in range(3))
    before = copy.deepcopy(model.state_dict())
    full = training_forward(exact, RuntimeConfig(precision="fp32", mode="eager"), SHAPE, device)
    plain = training_forward(reference, RuntimeConfig(precision=precision, mode="eager"), SHAPE, device)
    forward = training_forward(model, RuntimeConfig(precision=precision, mode=mode), SHAPE, device)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for clip in (*clips, clips[0][:5]):
        torch.testing.assert_close(forward(clip), plain(clip), atol=0.05, rtol=0)
        expected, found = step_of(reference, plain, clip), step_of(model, forward, clip)
        # In bf16 two orders of summation differ more from each other than either does from what is exact.
        wanted = step_of(exact, full, clip)
        assert likeness(wanted, found) > max(0.95, min(0.99, likeness(wanted, expected) - 0.01))
        assert math.isclose(float(found.norm()), float(expected.norm()), rel_tol=0.1)
    after = reference.state_dict()
    for name, value in model.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(value, after[name], atol=0.05, rtol=0.05)


@pytest.mark.parametrize("cache", ["none", "device"])
@pytest.mark.parametrize("mode", GPU_MODES)
def test_steps_on_the_gpu_are_those_on_the_cpu(mode, cache, tiny_corpus, tmp_path, monkeypatch):
    # Few and small steps: training magnifies what is rounded otherwise.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    settings = ("instance_recognition.steps=6", "local_aggregation.steps=0", "optim.lr=1e-4")
    on_cpu = trained(tiny_corpus, tmp_path / "cpu", *settings)
    on_gpu = trained(
        tiny_corpus, tmp_path / "gpu", *settings, "runtime.device=cuda", f"runtime.mode={mode}", f"data.cache={cache}"
    )
    assert on_gpu.method.bank.embeddings.device.type == "cuda"
    assert likeness(on_cpu.method.bank.embeddings, on_gpu.method.bank.embeddings.cpu()) > 0.98


@NEEDS_GPU
@pytest.mark.parametrize("mode", ["eager", "cuda_graph", "compile+cuda_graph"])
def test_local_aggregation_and_resume_on_the_gpu(mode, tiny_corpus, tmp_path):
    settings = ("runtime.device=cuda", f"runtime.mode={mode}", "runtime.precision=bf16", "optim.lr=1e-4")
    whole = trained(tiny_corpus, tmp_path / "whole", *settings, "local_aggregation.steps=14")
    job = trained(tiny_corpus, tmp_path / "run", *settings)
    longer = trained(tiny_corpus, tmp_path / "run", *settings, "local_aggregation.steps=14")
    assert (job.step, longer.step) == (12, 18)
    assert likeness(longer.method.bank.embeddings, whole.method.bank.embeddings) > 0.98


@pytest.mark.parametrize("mode", ["cuda_graph", "compile+cuda_graph"])
def test_cuda_graph_needs_a_gpu(mode, tiny_corpus, tmp_path):
    with pytest.raises(VieError, match=rf"runtime\.mode={re.escape(mode)} needs a GPU.*set it to eager"):
        trained(tiny_corpus, tmp_path / "run", f"runtime.mode={mode}")


def test_another_mode_is_no_other_run(tiny_corpus, tmp_path):
    """One that was begun on one GPU in cuda_graph, which several ranks cannot take, goes on there."""
    job = trained(tiny_corpus, tmp_path / "run")
    longer = trained(
        tiny_corpus,
        tmp_path / "run",
        "runtime.mode=compile",
        f"runtime.threads={torch.get_num_threads()}",
        "local_aggregation.steps=8",
    )
    assert (job.step, longer.step) == (12, 12)


def test_auto_takes_the_gpu_if_there_is_one():
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(("size", "precision"), [(16, "fp32"), (17, "bf16")])
def test_auto_keeps_off_bf16_where_the_cpu_gets_it_wrong(size, precision, monkeypatch):
    monkeypatch.setattr("pretrain.runtime.computes_bf16", lambda device: True)
    assert resolve_precision("auto", torch.device("cpu"), size) == precision


def test_bf16_of_tiny_crops_is_refused_on_the_cpu(tiny_corpus, tmp_path):
    with pytest.raises(VieError, match=r"runtime\.precision=bf16 gives wrong gradients .* 16 pixels: set it to fp32"):
        trained(tiny_corpus, tmp_path / "run", "runtime.precision=bf16")


@pytest.mark.parametrize(
    ("model", "torch_version", "cudnn", "layout", "precision", "warns"),
    [
        ("vie_resnet3d_r18", "2.10.0+cu128", 91002, "plain", "bf16", True),
        ("vie_resnet3d_r18", "2.9.1", 90800, "plain", "bf16", True),
        ("vie_resnet3d_r18", "2.10.0", 91002, "channels last", "bf16", False),
        ("vie_resnet3d_r18", "2.10.0", 91002, "plain", "fp32", False),
        ("vie_resnet3d_r18", "2.11.0", 91501, "plain", "bf16", False),
        ("vie_resnet3d_r18", "2.8.0", 91002, "plain", "bf16", False),
        ("vie_single_r18", "2.10.0", 91002, "plain", "bf16", False),
    ],
)
def test_slow_versions_are_named(model, torch_version, cudnn, layout, precision, warns, monkeypatch, caplog):
    monkeypatch.setattr(torch, "__version__", torch_version)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: cudnn)
    network = create_model(model, embed_dim=16, width=16)
    if layout == "channels last":
        use_channels_last(network, torch.device("cuda"))
    warn_if_slow(network, precision, torch.device("cuda"))
    assert bool(caplog.records) == warns
    if warns:
        assert torch_version in caplog.text
        assert f"{cudnn // 10000}.{cudnn // 100 % 100}.{cudnn % 100}" in caplog.text


def test_synchronised_batch_norm_keeps_the_activations_of_timm():
    timm = pytest.importorskip("timm")
    plain = timm.create_model("efficientnet_lite0")
    activations = [type(norm.act) for norm in plain.modules() if isinstance(norm, timm.layers.BatchNormAct2d)]
    synchronise_batch_norm(plain, torch.device("cuda"))
    synchronised = [norm for norm in plain.modules() if isinstance(norm, nn.SyncBatchNorm)]
    assert [type(norm.act) for norm in synchronised] == activations
    assert nn.ReLU6 in activations


def test_synchronised_batch_norm_refuses_what_it_would_change():
    class Scaled(nn.BatchNorm2d):
        pass

    with pytest.raises(VieError, match="would replace Scaled by PyTorch's own batch norm: set it to false"):
        synchronise_batch_norm(nn.Sequential(Scaled(3)), torch.device("cuda"))
    network = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4))
    synchronise_batch_norm(network, torch.device("cuda"))
    assert isinstance(network[1], nn.SyncBatchNorm)
