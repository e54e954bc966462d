"""What all agents that are measured are made of."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Setting:
    """What all agents are made of.

    Attributes:
        source: Folder of the saved trunk.
        size: Side of the pictures, which is the trunk's own.
        batch: Observations in an update.
        device: That agents train on.
        mode: Frozen or finetune.
        ours: Whether the trunk is an encoder of ``rl_encoders`` or a plain module.
    """

    source: str
    size: int
    batch: int
    device: torch.device
    mode: str
    ours: bool
