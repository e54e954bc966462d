"""Draws that need no word with the host, so that an update can be replayed from a CUDA graph."""

import torch
from torch import Tensor


def draw_members(ensemble: int, count: int | None, device: torch.device) -> Tensor:
    """Numbers of some members of an ensemble, each set as likely: (count,) different ones; all of them for None."""
    chances = torch.rand(ensemble, device=device)
    return chances.topk(ensemble if count is None else count).indices


def draw_by_logits(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A number for each row, with the probability softmax(logits): (..., n) to (...).

    The largest of logits and Gumbel noise (Maddison, Mnih, Teh, The Concrete Distribution, ICLR 2017, section 2.1).
    """
    waits = torch.empty_like(logits).exponential_(generator=generator)
    return (logits - waits.log()).argmax(dim=-1)
