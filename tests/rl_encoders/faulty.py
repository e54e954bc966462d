"""Environments that misbehave in every way of their own; ``gym:tests.rl_encoders.faulty:Faulty-v0``."""

import os
import time

import gymnasium as gym
import numpy as np
from gymnasium import spaces

NAME = "gym:tests.rl_encoders.faulty:Faulty-v0"


class Faulty(gym.Env):
    """Walks on a line; misbehaves in its third step in a share of the episodes."""

    def __init__(self, fault="none", render_mode=None, share=1.0):
        self.fault, self.share, self.render_mode = fault, share, render_mode
        self.observation_space = spaces.Dict(
            {
                "pixels": spaces.Box(0, 255, (40, 40, 3), np.uint8),
                "state": spaces.Box(-np.inf, np.inf, (2,), np.float64),
            }
        )
        self.action_space = spaces.Box(np.array([0.0, -3.0]), np.array([1.0, 5.0]), dtype=np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.steps = self.np_random.uniform(size=2), 0
        self.bad = self.np_random.uniform() < self.share
        if options:
            self.at = options["initial_state_dict"]["place"]
        return self.look(), {}

    def look(self):
        return {"pixels": np.full((40, 40, 3), int(self.steps * 7 % 256), np.uint8), "state": self.at}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.steps += 1
        self.at = self.at + action
        seen, reward = self.look(), float(self.at[0])
        if self.steps == 3 and self.bad:
            if self.fault == "raises":
                raise ZeroDivisionError("a wheel came off")
            if self.fault == "hangs":
                time.sleep(3600)
            if self.fault == "dies":
                os._exit(3)
            if self.fault == "NaN reward":
                reward = np.nan
            if self.fault == "NaN state":
                seen["state"] = np.full(2, np.nan)
            if self.fault == "missing":
                del seen["state"]
            if self.fault == "shape":
                seen["state"] = np.zeros(3)
        return seen, reward, self.steps == {"none": 6, "falls": 3}.get(self.fault), False, {"success": self.steps == 5}


class Endless(Faulty):
    """Has no limit, and no end."""


class Unseen(gym.Env):
    """Cannot be rendered."""

    observation_space, action_space = spaces.Box(0, 1, (2,), np.float32), spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, render_mode=None):
        if render_mode:
            raise ImportError("there is no display")

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.ones(2, np.float32), 1.0, False, False, {}


gym.register("Unseen-v0", Unseen, max_episode_steps=10)
gym.register("Faulty-v0", Faulty, max_episode_steps=10)
gym.register("Endless-v0", Endless)
