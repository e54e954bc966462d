"""Little worlds to learn from."""

import numpy as np

from rl_encoders.agents.perception import States
from rl_encoders.agents.returns import monte_carlo_returns
from rl_encoders.replay.buffer import Replay

PIXELS = {"source": "vie_single_r18", "width": 4, "size": 32}


def walks(count=60, length=20):
    """A point on a line that random actions push about; it should be at 0."""
    chance = np.random.default_rng(0)
    for _ in range(count):
        at, places, actions, rewards = chance.uniform(-1, 1), [], [], []
        for _ in range(length):
            action = chance.uniform(-1, 1)
            places.append(at)
            at = np.clip(at + 0.3 * action, -1, 1)
            actions.append([action])
            rewards.append(-abs(at))
        places.append(at)
        yield np.array(places, np.float32)[:, None], np.array(actions, np.float32), np.array(rewards, np.float32)


def line():
    """All of these walks."""
    buffer, eyes = Replay(2000), States({"place": 1})
    for places, actions, rewards in walks():
        buffer.add(eyes.keep({"place": places}), actions, rewards, False, monte_carlo_returns(rewards, 0.9))
    return buffer


def pictures(eyes, length=6):
    """Three trajectories of noise, stored as these eyes want it."""
    buffer, chance = Replay(100, back=eyes.back), np.random.default_rng(0)
    for _ in range(3):
        seen = {"pixels": chance.integers(0, 256, (length + 1, 32, 32, 3), dtype=np.uint8)}
        rewards = chance.normal(size=length).astype(np.float32)
        actions = chance.uniform(-1, 1, (length, 2)).astype(np.float32)
        buffer.add(eyes.keep(seen), actions, rewards, True, monte_carlo_returns(rewards, 0.9))
    return buffer
