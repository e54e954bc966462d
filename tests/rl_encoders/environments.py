"""A small environment of pixels, with one camera or two, for the agents of other libraries."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces

SIDE = 32


class Dot(gym.Env):
    """A bright dot on noise that one moves to the middle; an episode has ten steps."""

    def __init__(self, cameras=(), state=0, continuous=True, length=10):
        picture = spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)
        parts = {name: picture for name in cameras}
        if state:
            parts["state"] = spaces.Box(-np.inf, np.inf, (state,), np.float32)
        self.cameras, self.state, self.length = cameras, state, length
        self.observation_space = spaces.Dict(parts) if parts else picture
        self.action_space = spaces.Box(-1, 1, (2,), np.float32) if continuous else spaces.Discrete(5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.steps = self.np_random.uniform(4, SIDE - 4, 2), 0
        return self.look(), {}

    def step(self, action):
        move = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)][action] if np.ndim(action) == 0 else action
        self.at = np.clip(self.at + 2 * np.asarray(move), 2, SIDE - 3)
        self.steps += 1
        reward = -float(np.abs(self.at - SIDE / 2).mean()) / SIDE
        return self.look(), reward, False, self.steps >= self.length, {}

    def picture(self, shift=0):
        pixels = self.np_random.integers(0, 60, (SIDE, SIDE, 3), np.uint8)
        y, x = np.round(self.at).astype(int)
        pixels[y - 2 : y + 3, x - 2 : x + 3] = 255 - shift
        return pixels

    def look(self):
        if not self.cameras:
            return self.picture()
        seen = {name: self.picture(40 * number) for number, name in enumerate(self.cameras)}
        if self.state:
            seen["state"] = np.resize(self.at / SIDE, self.state).astype(np.float32)
        return seen
