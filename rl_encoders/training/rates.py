"""How many steps a second has: clips of a trunk are as far apart in time as those that it learned from."""

import logging
from collections.abc import Sequence

from rl_encoders.agents.perception import Perception
from rl_encoders.environments import Environment
from rl_encoders.training.data import open_data
from rl_encoders.training.settings import TrainConfig

logger = logging.getLogger(__name__)

MOST_OFF = 0.01
"""By which share rates may differ that count as the same: some are written with few digits."""


def check_rates(config: TrainConfig, worlds: Sequence[Environment], eyes: Perception) -> None:
    """Warns where clips are made for another rate than that which the data or the environment tells."""
    encoder = getattr(eyes, "encoder", None)
    if encoder is None or encoder.sampling.frames == 1:
        return
    told = {f"environment {world.name}": world.control_hz for world in worlds[:1]}
    if config.dataset:
        told[f"dataset {config.dataset}"] = open_data(config).facts.get("fps")
    given = config.environment.control_hz
    for what, rate in told.items():
        if rate is not None and abs(rate - given) > MOST_OFF * given:
            logger.warning(
                "%s has %g steps in a second, and the encoder's clips are made for %g: give environment.control_hz=%g "
                "unless you mean it",
                *(what, rate, given, rate),
            )
