"""Environments that take no time."""

import numpy as np

from rl_encoders.replay.trajectory import Space, Trajectory

LENGTH = 12


class Line:
    """A point that should be at 0, seen as a number, and as a picture with a bright column."""

    def __init__(self, pixels=False):
        self.pixels = pixels
        parts = {"place": ((1,), np.dtype(np.float32))}
        if pixels:
            parts["pixels"] = ((32, 32, 3), np.dtype(np.uint8))
        self.space = Space(parts, np.full(1, -1, np.float32), np.ones(1, np.float32))
        self.resets = []

    def seen(self):
        found = {"place": np.array([self.at], np.float32)}
        if self.pixels:
            found["pixels"] = np.zeros((32, 32, 3), np.uint8)
            column = int((self.at + 1) * 14)
            found["pixels"][:, column : column + 4] = 255
        return found

    def reset(self, *, seed=None, options=None):
        self.resets.append(seed)
        self.chance = np.random.default_rng(seed)
        self.at, self.steps = self.chance.uniform(-1, 1), 0
        return self.seen(), {}

    def step(self, action):
        assert action.shape == (1,)
        assert np.abs(action).max() <= 1
        self.at = float(np.clip(self.at + 0.4 * action[0], -1, 1))
        self.steps += 1
        near = abs(self.at) < 0.2
        return self.seen(), -abs(self.at), False, self.steps == LENGTH, {"success": near and self.steps == LENGTH}


def random_walks(count, pixels=False):
    world, chance, found = Line(pixels), np.random.default_rng(0), []
    for number in range(count):
        seen, actions, rewards = [world.reset(seed=number)[0]], [], []
        for _ in range(LENGTH):
            actions.append(chance.uniform(-1, 1, 1).astype(np.float32))
            observation, reward, _, _, _ = world.step(actions[-1])
            seen.append(observation)
            rewards.append(reward)
        parts = {name: np.stack([one[name] for one in seen]) for name in seen[0]}
        found.append(
            Trajectory(f"walk {number}", parts, np.stack(actions), np.array(rewards, np.float32), terminal=False)
        )
    return found
