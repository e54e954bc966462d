"""What the processes of one job exchange; a process alone exchanges nothing and runs the same code.

The loss of a job is the sum of what its ranks call their loss. ``sum`` and ``gather`` are differentiated accordingly:
a gradient is the derivative of that sum, whatever each rank computed of it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """The processes of a job, as one of them sees them.

    Attributes:
        rank: Its own number.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def of_job(cls) -> "Ranks":
        """All ranks of the default process group, or this process alone where there is none."""
        if not (dist.is_available() and dist.is_initialized()):
            return ALONE
        return cls(dist.get_rank(), dist.get_world_size())

    def share(self, count: int) -> range:
        """This rank's part of ``count`` things: contiguous, in the order of the ranks, cut as ``torch.chunk`` cuts."""
        size = -(-count // self.size)
        return range(min(self.rank * size, count), min((self.rank + 1) * size, count))

    def all_share(self, count: int) -> bool:
        """Whether every rank has a part of ``count`` things."""
        return len(Ranks(self.size - 1, self.size).share(count)) > 0

    def wait(self) -> None:
        """Waits for all ranks."""
        if self.size > 1:
            dist.barrier()

    def take_first(self, tensors: Iterable[Tensor]) -> None:
        """Gives every rank the values of the first."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def sum(self, x: Tensor) -> Tensor:
        """The sum of all ranks' tensors of one shape."""
        return x if self.size == 1 else _Sum.apply(x)

    def gather(self, x: Tensor) -> Tensor:
        """All ranks' tensors of one shape, one after another along the first axis."""
        return x if self.size == 1 else _Gather.apply(x, self)

    def gather_uneven(self, x: Tensor) -> Tensor:
        """As ``gather`` without gradient, of tensors that may differ in their first axis."""
        if self.size == 1:
            return x.detach()
        lengths = self.gather(torch.tensor([len(x)], device=x.device)).tolist()
        padded = x.new_zeros(max(lengths), *x.shape[1:])
        padded[: len(x)] = x.detach()
        parts = self.gather(padded).split(max(lengths))
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    def collect(self, x: Tensor) -> Tensor:
        """As ``gather_uneven``, in the first rank's host memory alone; the others get nothing of it (0, ...)."""
        x = x.detach().cpu()
        if self.size == 1:
            return x
        lengths = self.gather(torch.tensor([len(x)])).tolist()
        padded = x.new_zeros(max(lengths), *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in lengths] if self.rank == 0 else None
        dist.gather(padded, parts)
        return torch.cat([part[:length] for part, length in zip(parts or [], lengths, strict=False)] or [x[:0]])

    def exchange(self, x: Tensor) -> Tensor:
        """Hands block r of every rank's W blocks (W x n, ...) to rank r, without gradient: its own, by sender."""
        if self.size == 1:
            return x.detach()
        received = torch.empty_like(x, memory_format=torch.contiguous_format)
        dist.all_to_all_single(received, x.detach().contiguous())
        return received

    def largest(self, x: Tensor) -> Tensor:
        """The elementwise maximum of all ranks' tensors of one shape, without gradient."""
        return x.detach() if self.size == 1 else _reduced(x.detach(), dist.ReduceOp.MAX)


ALONE = Ranks()
"""A job of one process."""


def _reduced(x: Tensor, operation: Any) -> Tensor:
    result = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(result, operation)
    return result


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return _reduced(x, dist.ReduceOp.SUM)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return _reduced(gradient, dist.ReduceOp.SUM)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, ranks: Ranks) -> Tensor:
        context.ranks, context.length = ranks, len(x)
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(ranks.size)]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        first = context.ranks.rank * context.length
        return _reduced(gradient, dist.ReduceOp.SUM)[first : first + context.length], None
