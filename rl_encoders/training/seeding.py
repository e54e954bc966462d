"""What is drawn is a function of seed, purpose and number, and depends on nothing that was drawn before."""

import numpy as np
import torch

IMITATE, OFFLINE, ONLINE, EVALUATE, EXTRA, SEE, BUILD = range(7)
"""What a number is drawn for."""


def seeded(seed: int, purpose: int, number: int) -> int:
    """Begins PyTorch's generators anew, and returns the seed of whatever else is to be drawn."""
    found = int(np.random.SeedSequence([seed, purpose, number]).generate_state(1)[0])
    torch.manual_seed(found)
    return found
