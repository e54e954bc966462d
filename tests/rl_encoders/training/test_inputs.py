"""What tells an encoder and a dataset."""

from dataclasses import replace

import torch

from rl_encoders import load
from rl_encoders.agents.perception import Eyes, States
from rl_encoders.training.config import DataConfig
from rl_encoders.training.inputs import inputs_of
from rl_encoders.training.storage import stored
from tests.rl_encoders.training.runs import PIXELS
from tests.rl_encoders.training.worlds import random_walks
from vie import create_model, save_pretrained


def test_whatever_an_agent_learns_from_tells_its_data():
    states = States({"place": 1})
    walks = [stored(walk, states.keep(walk.observations), DataConfig()) for walk in random_walks(2)]
    told = inputs_of(states, walks)
    assert told == inputs_of(states, list(walks))
    one = walks[1]
    kept = {name: value + 1 for name, value in one.kept.items()}
    for other in (
        replace(one, action=one.action * 0.5),
        replace(one, reward=one.reward + 1),
        replace(one, mc_return=one.mc_return + 1),
        replace(one, terminal=not one.terminal),
        replace(one, kept=kept),
    ):
        assert inputs_of(states, [walks[0], other])["dataset"] != told["dataset"]
    assert inputs_of(states, walks[::-1])["dataset"] != told["dataset"]
    assert inputs_of(states, []) == {"encoder": "", "dataset": ""}


def test_weights_and_preprocessing_tell_an_encoder(tmp_path):
    torch.manual_seed(0)
    model = create_model("vie_single_r18", width=4)
    told = set()
    for name, sampling in (("one", model.sampling), ("other", replace(model.sampling, size=48))):
        save_pretrained(model, tmp_path / name, sampling)
        told.add(inputs_of(Eyes(load(tmp_path / name, size=32), control_hz=10), [])["encoder"])
        told.add(inputs_of(Eyes(load(tmp_path / name), control_hz=10), [])["encoder"])
    assert len(told) == 3  # two sizes of their own, and one that is asked for
    assert inputs_of(Eyes(load(**PIXELS), control_hz=10), [])["encoder"] not in told
