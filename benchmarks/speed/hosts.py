"""What agents' libraries do to a trunk: an encoder of ``rl_encoders`` beside the same network as a plain module.

The plain one is what their users write: the network inside the library's own extractor class, for "frozen" without
gradients and in eval mode when it is made.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from benchmarks.speed import hosts_d3rlpy, hosts_sb3, hosts_torchrl
from benchmarks.speed.plain import PlainTrunk
from benchmarks.speed.record import Job, Table, in_turns, medians
from benchmarks.speed.setting import Setting
from rl_encoders import VisualEncoder
from rl_encoders.trunk import Trunk
from vie import create_model, save_pretrained

COLUMNS = {
    "host": "",
    "mode": "",
    "trunk": "",
    "weights changed when built": "",
    "by training": "",
    "statistics changed": "",
    "copies of the first layer": "d",
    "pictures in an update": ".1f",
    "updates/s": ".2f",
}
MODES = ("frozen", "finetune")
UPDATES = 3
"""Of which the pictures are counted."""


class Agent(Protocol):
    """An agent of some library, ready to be trained."""

    def modules(self) -> Iterator[nn.Module]:
        """Of all the networks that it runs."""
        ...

    def holders(self) -> Iterator[nn.Module]:
        """The same with every set of weights that there is, those of targets too."""
        ...

    def update(self) -> None:
        """Takes one step of gradient on one batch."""
        ...


HOSTS: Mapping[str, Callable[[Setting], Agent]] = {**hosts_sb3.HOSTS, **hosts_d3rlpy.HOSTS, **hosts_torchrl.HOSTS}


def measure(job: Job) -> None:
    """Builds and trains every agent, with both kinds of trunk in turns."""
    table = Table(job, "hosts", COLUMNS)
    width, size, batch = (8, 32, 8) if job.quick else (64, 112, 64 if job.device.type == "cuda" else 16)
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        model = create_model("vie_single_r18", width=width).eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):  # as after training: not those that it begins with
                for statistic, low in ((module.running_mean, -0.5), (module.running_var, 0.5)):
                    assert statistic is not None
                    nn.init.uniform_(statistic, low, low + 1)
        save_pretrained(model, folder, model.sampling)
        loaded = {name: value.clone() for name, value in model.state_dict().items() if not name.startswith("head.")}
        for host, build in HOSTS.items():
            for mode in MODES:
                if table.wants(f"{host} {mode}"):
                    settings = [Setting(folder, size, batch, job.device, mode, ours) for ours in (True, False)]
                    for row in _rows(build, settings, loaded, job.quick):
                        table.add(host=host, mode=mode, batch=batch, size=size, **row)


def _rows(
    build: Callable[[Setting], Agent], settings: list[Setting], loaded: Mapping[str, Tensor], quick: bool
) -> list[dict[str, Any]]:
    agents = [build(setting) for setting in settings]
    built = [_changed(_trunks(agent), loaded) for agent in agents]
    seen = []
    for agent in agents:
        agent.update()
        with _counted(agent) as pictures:
            for _ in range(UPDATES):
                agent.update()
        seen.append(sum(pictures) / UPDATES)
    ways = {str(number): agent.update for number, agent in enumerate(agents)}
    times = medians(in_turns(ways, settings[0].device, *((0.05, 2) if quick else (1.0, 5))))
    rows = []
    for number, (setting, agent) in enumerate(zip(settings, agents, strict=True)):
        trained = _changed(_trunks(agent), loaded)
        copies = {trunk[next(iter(loaded))].data_ptr() for trunk in _trunks(agent)}
        rows.append(
            {
                "trunk": "rl_encoders" if setting.ours else "plain module",
                "weights changed when built": built[number][0],
                "by training": trained[0],
                "statistics changed": trained[1],
                "copies of the first layer": len(copies),
                "pictures in an update": seen[number] / setting.batch,
                "updates/s": 1 / times[str(number)],
            }
        )
    return rows


def _trunks(agent: Agent) -> list[dict[str, Tensor]]:
    """All tensors of every trunk that an agent holds, by their names in the network."""
    found = []
    for module in agent.holders():
        if isinstance(module, VisualEncoder):
            found.append(module.trunk.frozen() | module.trunk.trained())
        elif isinstance(module, PlainTrunk):
            found.append({name: value for name, value in module.model.state_dict().items() if value.numel()})
    return found


def _changed(trunks: list[dict[str, Tensor]], loaded: Mapping[str, Tensor]) -> tuple[str, str]:
    """Of the worst trunk: how many weights, and how many statistics, are not as they were loaded."""
    statistics = [name for name in loaded if "running_" in name]
    weights = [name for name in loaded if "running_" not in name and "num_batches" not in name]

    def worst(names: list[str]) -> str:
        count = max(
            sum(not torch.equal(trunk[name].cpu(), loaded[name]) for name in names if name in trunk) for trunk in trunks
        )
        return f"{count} of {len(names)}"

    return worst(weights), worst(statistics)


def _held(module: nn.Module) -> Iterator[Tensor]:
    """All tensors of a module, those too that tensordict has put in place of its parameters for a while."""
    for part in module.modules():
        kept = (*vars(part).values(), *part._parameters.values(), *part._buffers.values())
        yield from (one for one in kept if isinstance(one, Tensor))


def _times(tensor: Tensor) -> int:
    """How many tensors it stands for, within ``torch.vmap``."""
    whole = tensor
    while torch._C._functorch.is_batchedtensor(whole):
        whole = torch._C._functorch.get_unwrapped(whole)
    return whole.numel() // max(1, tensor.numel())


@contextmanager
def _counted(agent: Agent) -> Iterator[list[int]]:
    """Pictures that go through the trunks meanwhile."""
    pictures: list[int] = []

    def count(module: nn.Module, inputs: tuple[Any, ...], __: object) -> None:
        # Under vmap a tensor stands for several, as of several critics. A trunk of ours that is frozen has one set.
        weights = module.weights if isinstance(module, Trunk) else module
        several = max(_times(one) for one in (inputs[0], *_held(weights)))
        pictures.append(len(inputs[0]) * several)

    handles = []
    for module in agent.modules():
        if isinstance(module, VisualEncoder):
            handles.append(module.trunk.register_forward_hook(count))
        elif isinstance(module, PlainTrunk):
            handles.append(module.register_forward_hook(count))
    try:
        yield pictures
    finally:
        for handle in handles:
            handle.remove()
