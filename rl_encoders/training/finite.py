"""What an agent has learned is kept only while it consists of numbers."""

from torch import nn

from vie.errors import VieError


def check_finite(agent: nn.Module) -> None:
    """Raises ``VieError``, which names the first parameter that holds NaN or infinity, before it is kept.

    Losses are looked at only now and then; what they have done to the parameters shows here.
    """
    bad = [name for name, one in agent.named_parameters() if not bool(one.isfinite().all())]
    if bad:
        raise VieError(
            f"{bad[0]} of the agent ({len(bad)} of its parameters in all) holds numbers that are not finite: lower the "
            "learning rates; the last checkpoint is whole"
        )
