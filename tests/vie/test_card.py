import json
from pathlib import Path

import pytest
import torch

from tests.vie.test_hub import SAMPLING, assert_refused, cropped, pixels, saved
from vie import create_model, load, save_pretrained
from vie.hub import CARD_NAME, WEIGHTS_NAME
from vie.video.pixels import MEAN, STD, normalise


def test_the_card_tells_the_preprocessing(tmp_path):
    saved(tmp_path)
    assert json.loads((tmp_path / CARD_NAME).read_text())["preprocessing"] == {
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "short_side_ratio": 8 / 7,
        "crop": "centre",
    }


STATISTICS = {"mean": (0.5, 0.25, 0.125), "std": (0.5, 0.25, 0.2)}


def change_card(folder: Path, **changes: object) -> None:
    card = json.loads((folder / CARD_NAME).read_text())
    card.update(changes)
    (folder / CARD_NAME).write_text(json.dumps({key: value for key, value in card.items() if value is not None}))


def test_the_statistics_live_with_the_weights(tmp_path):
    encoder = saved(tmp_path)
    by_imagenet = encoder.preprocess(pixels())
    encoder.model.mean, encoder.model.std = STATISTICS["mean"], STATISTICS["std"]
    expected = normalise(
        by_imagenet * torch.tensor(STD).view(3, 1, 1, 1) + torch.tensor(MEAN).view(3, 1, 1, 1), **STATISTICS
    )
    torch.testing.assert_close(encoder.preprocess(pixels()), expected)
    save_pretrained(encoder.model, tmp_path, SAMPLING)
    loaded = load(tmp_path)
    assert (loaded.model.mean, loaded.model.std) == (STATISTICS["mean"], STATISTICS["std"])
    assert torch.equal(loaded.preprocess(pixels()), encoder.preprocess(pixels()))


@pytest.mark.parametrize("name", ["vie_single_r18", "torchvision_mc3_18"])
def test_the_first_cards_meant_imagenets_statistics(tmp_path, name):
    """Whatever the network's own are now: its weights were trained on pixels that were normalised so."""
    model = create_model(name, embed_dim=8)
    save_pretrained(model, tmp_path, SAMPLING)
    change_card(tmp_path, preprocessing=None)
    assert torch.equal(load(tmp_path).preprocess(pixels()), cropped(pixels()))


@pytest.mark.parametrize(
    "preprocessing",
    [
        {},
        3,
        {"mean": [0.5, 0.5, 0.5], "std": [1, 1]},
        {"mean": [0.5, 0.5, 0.5], "std": [1, 0, 1]},
        {"mean": [0.5, "much", 0.5], "std": [1, 1, 1]},
        {"mean": [0.5, float("nan"), 0.5], "std": [1, 1, 1]},
        {"mean": [0.5, 10**400, 0.5], "std": [1, 1, 1]},
    ],
)
def test_card_without_channel_statistics(tmp_path, preprocessing):
    saved(tmp_path)
    change_card(tmp_path, preprocessing=preprocessing)
    assert_refused(tmp_path, CARD_NAME)


@pytest.mark.parametrize(
    "card",
    [
        None,
        "",
        "{",
        "[]",
        "3",
        "{}",
        '{"model": null}',
        "[" * 100_000,
        '{"model": "vie_single_r18"}',
        '{"model": {"name": "vie_single_r18"}}',
    ],
)
def test_bad_card(tmp_path, card):
    saved(tmp_path)
    (tmp_path / CARD_NAME).unlink()
    if card is not None:
        (tmp_path / CARD_NAME).write_text(card)
    assert_refused(tmp_path, CARD_NAME)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("sampling",), {"frames": 4}),
        (("sampling",), None),
        (("arguments",), {"depth": 3}),
        (("arguments",), {"pretrained": "elsewhere"}),
        (("arguments",), None),
        (("name",), "vie_single_r81"),
        (("name",), ["vie_single_r18"]),
        (("name",), 5),
        (("name",), None),
        (("arguments",), {"width": 10**9}),
        (("arguments",), {"embed_dim": 10**13}),
        (("arguments",), {"embed_dim": 10**30}),
    ],
)
def test_card_that_describes_no_model(tmp_path, where, value):
    saved(tmp_path)
    card = json.loads((tmp_path / CARD_NAME).read_text())
    card["model"][where[0]] = value
    (tmp_path / CARD_NAME).write_text(json.dumps(card))
    assert_refused(tmp_path)


def test_card_of_another_model(tmp_path):
    saved(tmp_path / "one", "vie_resnet3d_r18")
    saved(tmp_path / "other")
    (tmp_path / "other" / CARD_NAME).write_bytes((tmp_path / "one" / CARD_NAME).read_bytes())
    assert_refused(tmp_path / "other", WEIGHTS_NAME, "does not fit vie_resnet3d_r18")
