"""A training step queues work on the device and never waits for it: the host stays ahead, and the device stays busy."""

import time
import warnings

import pytest
import torch

from pretrain.data.feed import feed
from pretrain.timing import Stopwatch
from tests.conftest import NEEDS_GPU
from tests.pretrain.test_train import trainer

AHEAD = (
    *("runtime.device=cuda", "runtime.precision=bf16", "runtime.channels_last=true", "data.workers=2"),
    "augmentation.grey=1.0",  # a batch without it is compiled for itself, when it comes
)


@NEEDS_GPU
@pytest.mark.parametrize("stage", ["ir", "la"])
@pytest.mark.parametrize("noise", ["null", "16"])
@pytest.mark.parametrize("mode", ["eager", "compile", "cuda_graph", "compile+cuda_graph"])
def test_no_step_waits_for_the_device(mode, noise, stage, tiny_corpus, tmp_path):
    settings = (*AHEAD, f"runtime.mode={mode}", f"instance_recognition.noise={noise}", "local_aggregation.steps=40")
    job = trainer(tiny_corpus, tmp_path / "run", *settings)
    # Steps of local aggregation begin past the clustering, which has to look at its clusters.
    job.step = {"ir": 0, "la": 5}[stage]
    job.method.network.train()
    batches = feed(job.clips, range(100), job.config.data, job.device)  # its end, which waits, is not to come near
    for _ in range(8):  # compilation, the choice of convolutions
        job.train_step(next(batches))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                job.train_step(next(batches))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [str(warning.message) for warning in caught if "synchroniz" in str(warning.message)] == []


@NEEDS_GPU
def test_host_and_device_are_told_apart():
    """Work that is quick to ask for and slow to do."""
    watch = Stopwatch(torch.device("cuda"))
    torch.cuda.synchronize()
    for _ in range(4):
        watch.lap("data")
        torch.cuda._sleep(50_000_000)
        watch.lap("step")
    timing = watch.read()
    assert timing.steps == 4
    assert timing.within["host"] < timing.within["device"] / 10
    assert timing.within["device"] == pytest.approx(timing.seconds["step"], rel=0.2)


def test_on_the_cpu_there_is_one_clock():
    watch = Stopwatch(torch.device("cpu"))
    for _ in range(3):
        watch.lap("data")
        time.sleep(0.01)
        watch.lap("step")
    timing = watch.read()
    assert timing.within == {}
    assert timing.steps == 3
    assert timing.seconds["step"] >= 0.03
    assert watch.read().steps == 0
