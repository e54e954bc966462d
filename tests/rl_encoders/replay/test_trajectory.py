"""Bad episodes are named."""

from dataclasses import replace

import numpy as np
import pytest

from rl_encoders.replay.trajectory import Space, Trajectory
from vie import VieError

T = 4
SPACE = Space(
    {"pixels": ((8, 8, 3), np.dtype(np.uint8)), "state": ((5,), np.dtype(np.float32))},
    np.full(2, -1, np.float32),
    np.ones(2, np.float32),
)
GOOD = Trajectory(
    "episode 7",
    {"pixels": np.zeros((T + 1, 8, 8, 3), np.uint8), "state": np.zeros((T + 1, 5), np.float32)},
    np.zeros((T, 2), np.float32),
    np.zeros(T, np.float32),
    True,
)


def test_a_good_one():
    GOOD.check(SPACE)
    assert len(GOOD) == T


STRANGE = GOOD.observations["state"].copy()
STRANGE[3, 1] = np.nan

BAD = {
    "no steps": ({"actions": GOOD.actions[:0]}, "has no steps"),
    "actions": ({"actions": np.zeros((T, 3), np.float32)}, r"actions of \[3\] numbers where the environment takes 2"),
    "rewards": ({"rewards": np.zeros(T + 1, np.float32)}, r"\(5,\) rewards for 4 actions"),
    "NaN reward": ({"rewards": np.array([0, 0, np.nan, 0], np.float32)}, "nan for the reward of step 2: leave it out"),
    "NaN action": ({"actions": np.full((T, 2), np.inf, np.float32)}, "for the action of step 0"),
    "bounds": (
        {"actions": np.array([[0, 0], [0, 3]] * 2, np.float32)},
        r"action 3 in place 1 of step 1, outside \[-1, 1\]: scale",
    ),
    "missing": ({"observations": {"state": GOOD.observations["state"]}}, "no observation 'pixels' .it has state"),
    "no end": (
        {"observations": {**GOOD.observations, "state": np.zeros((T, 5), np.float32)}},
        "4 observations 'state' for 4 actions, not 5: record what was seen after the last action",
    ),
    "shape": (
        {"observations": {**GOOD.observations, "pixels": np.zeros((T + 1, 3, 8, 8), np.uint8)}},
        r"observations 'pixels' of uint8 \[3, 8, 8\] where the environment gives uint8 \[8, 8, 3\]",
    ),
    "NaN observation": (
        {"observations": {**GOOD.observations, "state": STRANGE}},
        "nan in place 1 of the observation 'state' of step 3: leave it out, or mend it",
    ),
    "type": (
        {"observations": {**GOOD.observations, "pixels": np.zeros((T + 1, 8, 8, 3), np.float32)}},
        "float32",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_one_is_named_with_its_fault(case):
    change, message = BAD[case]
    with pytest.raises(VieError, match=f"^episode 7 .*{message}"):
        replace(GOOD, **change).check(SPACE)
