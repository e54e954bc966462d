"""Updates from CUDA graphs are the updates."""

import pytest
import torch

from rl_encoders import load
from rl_encoders.agents.base_policy import SeeingPolicy
from rl_encoders.agents.calql import CalQL, CalQLConfig
from rl_encoders.agents.diffusion import DiffusionHead
from rl_encoders.agents.exploration import Exploring
from rl_encoders.agents.external_policy import ExternalPolicy
from rl_encoders.agents.iql import IQL, IQLConfig
from rl_encoders.agents.parl import PARL, PARLConfig
from rl_encoders.agents.perception import Eyes, States
from rl_encoders.agents.sac import SAC, SACConfig
from rl_encoders.training.graphed import Graphed, check_capturable, prepare
from rl_encoders.training.loop import Training
from rl_encoders.training.seeding import OFFLINE, seeded
from rl_encoders.training.storage import filled, read_offline
from tests.rl_encoders.training.runs import agent, config
from tests.rl_encoders.training.worlds import Line, random_walks
from vie import VieError

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
PIXELS = {"source": "vie_single_r18", "width": 16, "size": 32, "proprio": {"place": 1}, "project": 8}
KINDS = {
    "SAC": lambda eyes: SAC(eyes, 1, SACConfig()),
    "REDQ": lambda eyes: SAC(eyes, 1, SACConfig(critics=6, careful=2, actor_value="mean")),
    "Cal-QL": lambda eyes: CalQL(eyes, 1, CalQLConfig(target_gap=0.8)),
    "HL-Gauss": lambda eyes: CalQL(eyes, 1, CalQLConfig(bins=51, q_low=-10, q_high=0)),
    "IQL": lambda eyes: IQL(eyes, 1, IQLConfig()),
    "OOO": lambda eyes: Exploring(CalQL(eyes, 1, CalQLConfig()), 1.0),
}


def through(mode):
    if mode == "numbers":
        return States({"place": 1})
    return Eyes(load(**PIXELS, mode=mode, **({"train_from": "conv4"} if mode == "partial" else {})), control_hz=10)


def made(kind, mode):
    torch.manual_seed(0)
    learner = (KINDS[kind](through(mode))).cuda()
    learner.make_optimizers()
    prepare(learner.optimizers().values())
    return learner


def replay_for(learner, mode, tmp_path):
    settings = config(tmp_path)
    walks = random_walks(6, pixels=mode != "numbers")
    return filled(read_offline(walks, None, learner.eyes, settings.data), learner.eyes, learner.device, settings.data)


@GPU
@pytest.mark.parametrize("mode", ["numbers", "frozen", "finetune", "partial"])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_is_learned_is_what_would_be(kind, mode, tmp_path):
    if mode in {"finetune", "partial"} and kind not in {"Cal-QL", "IQL"}:
        pytest.skip("trunks are trained alike")
    plain, graphed = made(kind, mode), made(kind, mode)
    learn = Graphed(graphed.update)
    replay = replay_for(plain, mode, tmp_path)
    for number in range(8):
        batch = replay.draw(32, (number,))
        found = []
        for update in (plain.update, learn):
            seeded(0, OFFLINE, number)
            found.append(update(batch))
        for name, value in found[0].items():
            torch.testing.assert_close(
                found[1][name], value, atol=2e-3, rtol=2e-3, msg=lambda text, n=name: f"{n}: {text}"
            )
    assert learn._graph is not None
    mine, theirs = plain.state_dict(), graphed.state_dict()
    for name, tensor in mine.items():
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
            torch.testing.assert_close(
                theirs[name], tensor, atol=5e-3, rtol=5e-3, msg=lambda text, n=name: f"{n}: {text}"
            )


@GPU
@pytest.mark.parametrize("critic", ["calql", "iql"])
def test_pa_rl_imitates_improves_and_distils(critic, tmp_path):
    def learner():
        torch.manual_seed(0)
        policy = SeeingPolicy(States({"place": 1}), DiffusionHead(1, 1, dropout=0.0), lr=1e-3, imitation_lr=2e-3)
        one = PARL(States({"place": 1}), 1, PARLConfig(critics=4, critic=critic), policy).cuda()
        one.make_optimizers()
        prepare(one.optimizers().values())
        return one

    plain, graphed = learner(), learner()
    ways = {name: Graphed(getattr(graphed, name)) for name in ("imitate", "distil", "update")}
    replay = replay_for(plain, "numbers", tmp_path)
    for name, way in ways.items():
        for number in range(6):
            batch = replay.draw(16, (number,))
            found = []
            for learn in (getattr(plain, name), way):
                seeded(0, OFFLINE, number)
                found.append(learn(batch))
            for metric, value in found[0].items():
                torch.testing.assert_close(found[1][metric], value, atol=2e-3, rtol=2e-3)


@GPU
def test_a_run_goes_on(tmp_path):
    def run(updates):
        learner = agent().cuda()
        learner.make_optimizers()
        settings = config(
            tmp_path, mode="cuda_graph", offline_updates=updates, online_steps=0, imitation_updates=0, device="cuda"
        )
        walks = read_offline(random_walks(8), Line().space, learner.eyes, settings.data)
        return Training(settings, learner, filled(walks, learner.eyes, learner.device, settings.data), [Line()])

    run(10).train()
    again = run(30)
    assert again.updates == 10
    again.train()
    assert again.updates == 30


def test_it_needs_a_gpu_and_nothing_of_the_host(tmp_path):
    walks = random_walks(3)
    learner = agent()
    stored = filled(
        read_offline(walks, None, learner.eyes, config(tmp_path).data),
        learner.eyes,
        learner.device,
        config(tmp_path).data,
    )
    with pytest.raises(VieError, match="mode=cuda_graph needs a GPU, and the device is cpu: set it to eager"):
        Training(config(tmp_path, mode="cuda_graph"), learner, stored, [Line()])


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (lambda: ExternalPolicy(lambda seen, count: None, lambda seen, action: 0.0, 1), "ExternalPolicy"),
        (lambda: Eyes(load(**PIXELS, mode="partial", train_from={0: "none", 5: "all"}), control_hz=10), "Eyes"),
    ],
)
def test_what_needs_the_host_is_named(part, name, monkeypatch):
    learner = agent()
    learner.part = part()
    monkeypatch.setattr(type(learner), "device", torch.device("cuda"))
    with pytest.raises(VieError, match=f"without the host, which {name} needs here: set it to eager"):
        check_capturable(learner)
