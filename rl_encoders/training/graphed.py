"""Updates replayed from CUDA graphs: of small networks a GPU waits longer for its orders than it computes."""

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from rl_encoders.agents.agent import Agent, Metrics
from rl_encoders.replay.buffer import Batch
from vie.errors import VieError

Learn = Callable[[Batch], Metrics]

WARM = 3
"""Updates that run plainly first: libraries choose their kernels, and optimizers make their states."""


class Graphed:
    """Something that learns from batches of one shape; others are learned from plainly.

    It draws what it would draw otherwise: a graph's random numbers follow the generator's seed at each replay.
    """

    def __init__(self, learn: Learn) -> None:
        """Takes what learns, whose optimizers ``prepare`` has been given, and which asks the host for nothing."""
        self.learn = learn
        self._stream = torch.cuda.Stream()
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._batch: list[Tensor] = []
        self._metrics: Metrics = {}

    def __call__(self, batch: Batch) -> Metrics:
        """As what it wraps; metrics are those of this batch."""
        tensors = _tensors(batch)
        shapes = [tensor.shape for tensor in tensors]
        if self._graph is not None and shapes != [tensor.shape for tensor in self._batch]:
            return self.learn(batch)
        self._calls += 1
        if self._calls <= WARM:
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                metrics = self.learn(batch)
            torch.cuda.current_stream().wait_stream(self._stream)
            return metrics
        if self._graph is None:
            own = _copied(batch)
            self._batch = _tensors(own)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._metrics = self.learn(own)
            self._graph = graph
        for mine, given in zip(self._batch, tensors, strict=True):
            mine.copy_(given)
        self._graph.replay()
        return {name: value.clone() for name, value in self._metrics.items()}


class Ways:
    """The methods of an agent that learn, as a mode has them run."""

    def __init__(self, agent: Agent, mode: Literal["eager", "cuda_graph"]) -> None:
        """Before its optimizers take or load steps; raises ``VieError`` as ``check_capturable``."""
        self.agent, self.mode = agent, mode
        self._graphs: dict[str, Graphed] = {}
        if mode == "cuda_graph":
            check_capturable(agent)
            prepare(agent.optimizers().values())

    def __call__(self, name: str) -> Learn:
        """A method by its name."""
        learn: Learn = getattr(self.agent, name)
        if self.mode == "eager":
            return learn
        if name not in self._graphs:
            self._graphs[name] = Graphed(learn)
        return self._graphs[name]


def prepare(optimizers: Iterable[Optimizer]) -> None:
    """Has optimizers count their steps on the GPU, before they take or load any."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["capturable"] = True


def check_capturable(agent: Agent) -> None:
    """Raises ``VieError`` where an agent's updates cannot be replayed."""
    if agent.device.type != "cuda":
        raise VieError(f"mode=cuda_graph needs a GPU, and the device is {agent.device}: set it to eager")
    for module in agent.modules():
        if not getattr(module, "capturable", True):
            raise VieError(
                f"mode=cuda_graph replays updates without the host, which {type(module).__name__} needs here: set it "
                "to eager"
            )


def _tensors(batch: Batch) -> list[Tensor]:
    return [*batch.seen.values(), *batch.next_seen.values(), *batch[2:]]


def _copied(batch: Batch) -> Batch:
    seen, following = ({name: one.clone() for name, one in part.items()} for part in batch[:2])
    return Batch(seen, following, *(tensor.clone() for tensor in batch[2:]))
