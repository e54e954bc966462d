"""TorchRL's SAC for ``benchmarks.speed.hosts``: two critics of one network, as its losses make them."""

import copy
from collections.abc import Iterator

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import NormalParamExtractor, TensorDictModule, TensorDictSequential
from torch import Tensor, nn
from torchrl.modules import MLP, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import SACLoss, SoftUpdate

from benchmarks.speed.plain import PlainTrunk
from benchmarks.speed.setting import Setting
from rl_encoders import load
from rl_encoders.adapters.torchrl import EMBEDDING, encoder_module, encoders, reload

HIDDEN, ACTION = 256, 4
BATCHES = 64
"""More than are remembered of those seen last."""

NETWORKS = ("actor_network", "qvalue_network")


class PlainEyes(nn.Module):
    """The trunk as TorchRL's users put it there."""

    def __init__(self, source: str, frozen: bool) -> None:
        super().__init__()
        self.trunk = PlainTrunk(source, frozen)

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 to (B, C)."""
        pooled: Tensor = self.trunk(pictures.movedim(-1, -3).float() / 255)
        return pooled


class Sac:
    """SAC on transitions of noise."""

    def __init__(self, setting: Setting) -> None:
        width = PlainTrunk(setting.source, True).model.num_features
        head = nn.Sequential(nn.Linear(width, 2 * ACTION), NormalParamExtractor())
        actor = ProbabilisticActor(
            TensorDictSequential(_eyes(setting), TensorDictModule(head, [EMBEDDING], ["loc", "scale"])),
            in_keys=["loc", "scale"],
            distribution_class=TanhNormal,
            return_log_prob=True,
        )
        value = ValueOperator(MLP(width + ACTION, 1, num_cells=[HIDDEN]), in_keys=[EMBEDDING, "action"])
        critic = TensorDictSequential(_eyes(setting), value)
        self.loss = SACLoss(actor, critic, num_qvalue_nets=2, target_entropy=-float(ACTION)).to(setting.device)
        self.loss.make_value_estimator(gamma=0.99)
        if setting.ours:
            reload(self.loss)
        self.targets = SoftUpdate(self.loss, tau=0.005)
        self.optimizer = torch.optim.Adam(self.loss.parameters(), 3e-4)
        self.batches = [_noise(setting, seed) for seed in range(BATCHES)]
        self.taken = 0

    def modules(self) -> Iterator[nn.Module]:
        """Of the networks that the loss runs, with one set of weights after another."""
        for name in NETWORKS:
            yield from getattr(self.loss, name).modules()

    def holders(self) -> Iterator[nn.Module]:
        """The same with every set of weights: of the actor, both critics and their targets."""
        yield from encoders(self.loss)
        for name in NETWORKS:
            for path, module in getattr(self.loss, name).named_modules():
                if isinstance(module, PlainTrunk):
                    for kept in (f"{name}_params", f"target_{name}_params"):
                        params = getattr(self.loss, kept).get(tuple(path.split(".")))
                        yield from (_having(module, one) for one in (params.unbind(0) if params.shape else [params]))

    def update(self) -> None:
        """One batch."""
        self.taken += 1
        losses = self.loss(self.batches[self.taken % BATCHES].clone())
        self.optimizer.zero_grad()
        sum(value for name, value in losses.items() if name.startswith("loss_")).backward()
        self.optimizer.step()
        self.targets.step()


def _eyes(setting: Setting) -> TensorDictModule:
    if not setting.ours:
        return TensorDictModule(PlainEyes(setting.source, setting.mode == "frozen"), ["pixels"], [EMBEDDING])
    encoder = load(setting.source, setting.mode, size=setting.size, device=setting.device)
    return encoder_module(encoder, ["pixels"], channels_first=False)


def _having(trunk: PlainTrunk, weights: TensorDictBase) -> PlainTrunk:
    """A copy of a trunk that shares some weights."""
    made = copy.deepcopy(trunk)
    for name, tensor in weights.flatten_keys(".").items():
        path, _, leaf = name.rpartition(".")
        owner = made.get_submodule(path)
        if leaf in owner._buffers:
            owner._buffers[leaf] = tensor.data
        else:
            owner._parameters[leaf] = nn.Parameter(tensor.data, requires_grad=False)
    return made


def _noise(setting: Setting, seed: int) -> TensorDictBase:
    chance = np.random.default_rng(seed)

    def pictures() -> Tensor:
        shape = (setting.batch, setting.size, setting.size, 3)
        return torch.from_numpy(chance.integers(0, 256, shape, np.uint8))

    ended = torch.zeros(setting.batch, 1, dtype=torch.bool)
    following = {"pixels": pictures(), "reward": torch.rand(setting.batch, 1), "done": ended, "terminated": ended}
    action = torch.from_numpy(chance.uniform(-1, 1, (setting.batch, ACTION)).astype(np.float32))
    content = {"pixels": pictures(), "action": action, "next": following}
    return TensorDict(content, [setting.batch], device=setting.device)


HOSTS = {"TorchRL SAC": Sac}
