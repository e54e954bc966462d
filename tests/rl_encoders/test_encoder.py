"""Pixels in, vectors out: what is checked, and what is computed."""

import copy
import json

import numpy as np
import pytest
import torch

from rl_encoders import VisualEncoder, from_config, load
from rl_encoders.pooling import POOLS
from vie import VieError, create_model, save_pretrained
from vie import load as load_vie

STILL = {"source": "vie_single_r18", "width": 8, "size": 32}
CLIPS = {"source": "vie_resnet3d_r18", "width": 8, "size": 32}


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (3, 40, 48, 3), np.uint8)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    model = create_model("vie_single_r18", width=8).eval()
    folder = tmp_path_factory.mktemp("saved")
    save_pretrained(model, folder, model.sampling, {"licence": "MIT"})
    return folder


def seeded(**config):
    torch.manual_seed(0)
    return load(**config)


def test_it_is_what_the_saved_encoder_pools(saved, pictures):
    encoder = load(saved)
    wanted = load_vie(saved).pooled(torch.from_numpy(pictures)[:, None])
    found = encoder(pictures)
    assert torch.equal(found, wanted)
    assert found.shape == (3, encoder.output_dim)
    assert found.dtype == torch.float32
    assert encoder.card["licence"] == "MIT"
    assert torch.equal(encoder(torch.from_numpy(pictures)), found)


TRUNKS = ["torchvision_resnet18", "timm_resnet18", "timm_vit_tiny_patch16_224", "torchvision_vit_b_16", "vie_slow_r18"]


@pytest.mark.parametrize("name", TRUNKS)
def test_every_kind_of_trunk(name, pictures):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    config = {"source": name} | ({"size": 64} if "vit_b" not in name else {})
    encoder = seeded(**config, mode="partial", pool="cls" if "vit" in name else "spatial_softmax")
    vectors = encoder(pictures)
    assert vectors.shape == (3, encoder.output_dim)
    vectors.square().sum().backward()
    new = [name for name, value in encoder.trunk.weights.named_parameters() if value.grad is not None]
    assert new
    encoder.verify(torch.optim.SGD(encoder.param_groups(0.1)), as_loaded=True)
    assert encoder.card["licence"] == "random weights"
    assert torch.equal(copy.deepcopy(encoder)(pictures), vectors)


@pytest.mark.parametrize("config", [STILL, CLIPS], ids=["still", "clips"])
@pytest.mark.parametrize("pool", [name for name in POOLS if name != "cls"])
def test_every_pool(config, pool, pictures):
    encoder = seeded(**config | {"size": 64}, pool=pool)
    vectors = encoder(pictures)
    assert vectors.shape == (3, encoder.output_dim)
    assert torch.isfinite(vectors).all()
    assert not torch.allclose(vectors[0], vectors[1])
    learned = [value for value in encoder.parameters() if value.requires_grad]
    assert bool(learned) == (pool != "mean")
    if learned:
        vectors.square().sum().backward()
        assert all(value.grad is not None and value.grad.any() for value in learned)
    encoder.verify()


def test_spatial_softmax_finds_places():
    from rl_encoders.pooling import SpatialSoftmax

    stream = create_model("vie_single_r18", width=8)
    pool = SpatialSoftmax(stream, {"conv5": torch.zeros(1, 1, 1, 5, 9)}, keypoints=1)
    with torch.no_grad():
        pool.features.weight.fill_(1)
        pool.features.bias.zero_()
        maps = torch.zeros(2, 1, 1, 5, 9)
        maps[0, 0, 0, 0, 8] = maps[1, 0, 0, 2, 4] = 100.0
        assert torch.allclose(pool(maps), torch.tensor([[1.0, -1.0], [0.0, 0.0]]), atol=1e-5)


class TestShapes:
    def test_any_resolution(self, pictures):
        encoder = seeded(**STILL)
        for height, width in ((32, 32), (200, 90), (33, 65)):
            assert encoder(np.zeros((2, height, width, 3), np.uint8)).shape == (2, 64)

    def test_a_dynamic_trunk_sees_a_still_as_a_still_clip(self, pictures):
        encoder = seeded(**CLIPS)
        repeated = np.repeat(pictures[:, None], 16, axis=1)
        assert torch.equal(encoder(pictures), encoder(repeated))

    def test_a_static_trunk_averages_the_frames_of_a_clip(self, pictures):
        encoder = seeded(**STILL)
        both = np.stack([pictures[:2], pictures[1:]], axis=1)
        wanted = (encoder(pictures[:2]) + encoder(pictures[1:])) / 2
        torch.testing.assert_close(encoder(both), wanted, atol=1e-5, rtol=1e-5)

    def test_a_history_is_side_by_side(self, pictures):
        encoder = seeded(**STILL, history=2)
        alone = seeded(**STILL)
        both = np.stack([pictures[:2], pictures[1:]], axis=1)
        assert encoder.output_dim == 128
        assert torch.equal(encoder(both), torch.cat([alone(pictures[:2]), alone(pictures[1:])], dim=1))

    def test_cameras_and_proprioception(self, pictures):
        encoder = seeded(**STILL, views=["front", "wrist"], proprio={"joints": 2, "gripper": 1})
        alone = seeded(**STILL)
        joints, gripper = np.ones((3, 2)), np.zeros((3, 1), np.float32)
        given = {"gripper": gripper, "wrist": pictures[::-1], "joints": joints, "front": pictures, "other": "ignored"}
        found = encoder(given)
        wanted = torch.cat([alone(pictures), alone(pictures[::-1].copy()), torch.tensor([[1.0, 1, 0]] * 3)], dim=1)
        assert torch.equal(found, wanted)
        assert encoder.output_dim == 131

    def test_projections_and_pools_of_their_own(self, pictures):
        heads = {"views": ["a", "b"], "pool": "spatial_embeddings", "pool_arguments": {"features": 2}, "project": 10}
        shared = seeded(**STILL, **heads)
        apart = seeded(**STILL, **heads, share_views=False, proprio={"s": 4}, proprio_project=6)
        assert (len(shared.pools), shared.output_dim) == (1, 10)
        assert (len(apart.pools), apart.output_dim) == (2, 16)
        found = apart({"a": pictures, "b": pictures, "s": np.zeros((3, 4))})
        assert found.shape == (3, 16)
        assert found.abs().max() <= 1

    def test_detached_it_gives_no_gradient(self, pictures):
        encoder = seeded(**STILL, mode="finetune")
        assert encoder(pictures).requires_grad
        assert not encoder(pictures, detach=True).requires_grad

    @pytest.mark.parametrize("precision", ["bf16", "fp16"])
    def test_half_precision(self, pictures, precision):
        full, half = seeded(**STILL), seeded(**STILL, precision=precision)
        assert half(pictures).dtype == torch.float32
        torch.testing.assert_close(half(pictures), full(pictures), atol=0.05, rtol=0.05)
        assert half.feature_fingerprint() != full.feature_fingerprint()
        assert half.fingerprint() == full.fingerprint()


WRONG = {
    "float": (np.zeros((2, 32, 32, 3), np.float32), "is float32|is torch.float32"),
    "channels first": (np.zeros((2, 3, 32, 32), np.uint8), "move the channels to the end"),
    "no batch": (np.zeros((32, 32, 3), np.uint8), r"pixels\[None\]"),
    "grey": (np.zeros((2, 32, 32, 1), np.uint8), "give RGB pixels"),
    "list": ([[0]], "is a list: give a numpy array or a torch tensor"),
    "mapping": ({"front": np.zeros((2, 32, 32, 3), np.uint8)}, r"load it with views=\[NAME"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_observations_are_refused(case):
    observation, message = WRONG[case]
    with pytest.raises(VieError, match=message) as caught:
        seeded(**STILL)(observation)
    assert "\n" not in str(caught.value)


def test_wrong_mappings_are_refused(pictures):
    encoder = seeded(**STILL, views=["front"], proprio={"state": 3})
    for given, message in (
        (pictures, "is a ndarray: this encoder takes a mapping with front, state"),
        ({"front": pictures}, "has no 'state': it has front"),
        ({"front": pictures, "state": np.zeros((3, 4))}, r"state has the shape \(3, 4\), not \(B, 3\)"),
        ({"front": pictures, "state": np.zeros((2, 3))}, "state holds 2 observations, others hold 3"),
    ):
        with pytest.raises(VieError, match=message):
            encoder(given)


def test_frames_that_make_no_clip_are_refused(pictures):
    with pytest.raises(VieError, match=r"has 3 frames: vie_resnet3d_r18 with history=1 takes 1 \(stills\) or 16"):
        seeded(**CLIPS)(np.repeat(pictures[:, None], 3, axis=1))
    with pytest.raises(VieError, match="has 3 frames: vie_single_r18 with history=2"):
        seeded(**STILL, history=2)(np.repeat(pictures[:, None], 3, axis=1))


class TestTraining:
    def test_rates_decay_from_the_top(self):
        encoder = seeded(**STILL, mode="finetune", layer_decay=0.5, project=4)
        groups = {group["name"]: group for group in encoder.param_groups(1.0)}
        assert [groups[name]["lr"] for name in ("conv1", "conv4", "conv5", "heads")] == [0.5**5, 0.25, 0.5, 1.0]
        assert sum(len(group["params"]) for group in groups.values()) == len(list(encoder.parameters()))
        encoder.verify(torch.optim.SGD(encoder.param_groups(0.1)))

    def test_a_schedule_unfreezes_into_the_optimizer(self, pictures):
        encoder = seeded(
            **STILL, mode="partial", train_from={0: "none", 5: "conv5", 9: "all"}, layer_decay=0.5, project=4
        )
        optimizer = torch.optim.Adam(encoder.param_groups(0.1))
        before = encoder.feature_fingerprint()
        trained = []
        for step in range(11):
            encoder.advance(step, optimizer)
            encoder.verify(optimizer)
            trained.append(encoder.trunk.first_trained)
            optimizer.zero_grad()
            encoder(pictures).square().mean().backward()
            optimizer.step()
        assert trained == [5] * 5 + [4] * 4 + [0] * 2
        assert encoder.feature_fingerprint() != before
        assert optimizer.param_groups[1]["lr"] == 0.05

    def test_a_state_goes_on_where_it_was(self, pictures):
        schedule = {0: "none", 3: "conv5", 6: "conv4"}
        encoder = seeded(**STILL, mode="partial", train_from=schedule, project=4)
        encoder.advance(4)
        with torch.no_grad():
            for value in encoder.parameters():
                value.add_(0.01)
        again = seeded(**STILL, mode="partial", train_from=schedule, project=4)
        again.load_encoder_state(copy.deepcopy(encoder.encoder_state()))
        assert again.step == 4
        assert torch.equal(again(pictures), encoder(pictures))
        assert not any("stem" in name for name in encoder.encoder_state()["weights"])

    def test_a_schedule_that_freezes_again_is_refused(self):
        with pytest.raises(VieError, match="freezes stages again"):
            load(**STILL, mode="partial", train_from={0: "all", 5: "none"})
        with pytest.raises(VieError, match="has no stage 'layer4': it has conv1"):
            load(**STILL, mode="partial", train_from="layer4")
        with pytest.raises(VieError, match="does not say what is trained at step 0"):
            load(**STILL, mode="partial", train_from={5: "all"})
        with pytest.raises(VieError, match="train_from=conv5 is for mode=partial"):
            load(**STILL, mode="finetune", train_from="conv5")


class TestConfigs:
    @pytest.mark.parametrize(
        "config",
        [
            STILL | {"pool": "attention"},
            {"_target_": "rl_encoders.load", **STILL, "pool": "attention"},
            {"class_path": "rl_encoders.load", "init_args": STILL | {"pool": "attention"}},
            json.loads(json.dumps(STILL | {"pool": "attention"})),
        ],
        ids=["plain", "hydra", "class_path", "json"],
    )
    def test_every_kind_of_config(self, config):
        encoder = from_config(config)
        assert isinstance(encoder, VisualEncoder)
        assert encoder.heads.pool == "attention"

    def test_a_schedule_with_words_for_steps(self):
        encoder = from_config(STILL | {"mode": "partial", "train_from": {"0": "none", "10": "all"}})
        encoder.advance(10)
        assert encoder.trunk.first_trained == 0

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"pool": "mean"}, "has no source: it has pool"),
            (STILL | {"pol": "mean"}, "has no 'pol': did you mean 'pool'"),
            (STILL | {"mode": "frosen"}, "no mode 'frosen': give one of frozen, partial, finetune"),
            (STILL | {"pool": "max"}, "no pool 'max': give one of mean, cls"),
            (STILL | {"pool": "cls"}, "vie_single_r18 has no class token"),
            (STILL | {"pool": "mean", "pool_arguments": {"heads": 2}}, "pool=mean takes no heads"),
            (STILL | {"precision": "int8"}, "precision=int8: give one of fp32, bf16, fp16"),
            (STILL | {"history": 0}, "history=0"),
            (STILL | {"layer_decay": 2.0}, "layer_decay=2.0"),
        ],
    )
    def test_mistakes_are_named(self, config, message):
        with pytest.raises(VieError, match=message):
            from_config(config)
