"""Room for episodes, and data that is held once."""

import weakref

import numpy as np
import pytest
import torch

from rl_encoders import load
from rl_encoders.agents.perception import Eyes, States
from rl_encoders.training.config import DataConfig, RunConfig
from rl_encoders.training.storage import filled, new_replay, read_offline, rows_needed, stored
from tests.rl_encoders.training.worlds import LENGTH, random_walks

EYES, CPU = States({"place": 1}), torch.device("cpu")


def test_data_is_let_go_while_the_replay_fills():
    config = DataConfig()
    kept, own = (list(read_offline(random_walks(3), None, EYES, config)) for _ in range(2))
    held = weakref.ref(own[0])
    replay = filled(own, EYES, CPU, config, emptied=True)
    assert own == []
    assert held() is None
    again = filled(kept, EYES, CPU, config)
    assert len(kept) == 3
    torch.testing.assert_close(tuple(replay.at(replay.starts)), tuple(again.at(again.starts)))


def test_features_wait_on_the_host():
    eyes = Eyes(load("vie_single_r18", mode="frozen", width=4, size=32), control_hz=10)
    device = torch.device("meta")
    eyes._features = lambda clips: torch.empty(sum(len(some) for some in clips), 4, device=device)
    with pytest.raises(NotImplementedError, match="meta"):  # as it is copied from there
        eyes.keep({"pixels": np.zeros((3, 32, 32, 3), np.uint8)})


@pytest.mark.parametrize("chunk", [1, 2, 5])
@pytest.mark.parametrize("length", [1, 3, LENGTH])
def test_there_is_room_for_every_episode_of_a_run(chunk, length):
    data = DataConfig(rows=1000, chunk=chunk)
    config, steps = RunConfig(online_steps=20, data=data), 0
    replay = new_replay(rows_needed(config, LENGTH), EYES, CPU, data)
    walk = random_walks(1)[0]
    short = stored(walk, EYES.keep(walk.observations), data)
    one = type(short)(
        {name: tensor[: length + 1] for name, tensor in short.kept.items()},
        *(short.action[:length], short.reward[:length], True, short.mc_return[:length]),
    )
    while steps < config.online_steps:
        one.put_into(replay, data)
        steps += length
    assert len(replay) == steps
    assert replay.rows == 64


def test_there_is_no_more_room_than_was_asked_for():
    assert rows_needed(RunConfig(online_steps=10**6), 100) == 200_000
    assert rows_needed(RunConfig(online_steps=10), None) == 200_000


def test_transitions_live_where_the_settings_say():
    assert new_replay(9, EYES, CPU, DataConfig()).device == CPU
    there = new_replay(9, EYES, torch.device("cuda", 0), DataConfig(device="cpu"))
    assert (there.device, there.drawn_to) == (CPU, torch.device("cuda", 0))
    there = new_replay(9, EYES, torch.device("cuda", 0), DataConfig(device="cuda"))
    assert there.device == there.drawn_to == torch.device("cuda", 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_come_to_the_agent():
    config = DataConfig(device="cpu")
    data = list(read_offline(random_walks(3), None, EYES, config))
    there, here = filled(data, EYES, torch.device("cuda", 0), config), filled(data, EYES, CPU, config)
    batch = there.draw(8, (0,))
    assert batch.action.device == batch.seen["place"].device == torch.device("cuda", 0)
    torch.testing.assert_close(batch.action.cpu(), here.draw(8, (0,)).action)
