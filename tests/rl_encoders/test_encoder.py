"""Pixels in, vectors out: what is checked, and what is computed."""

import copy
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from rl_encoders import FeatureCache, VisualEncoder, from_config, load, recent
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


TRUNKS = [
    "torchvision_resnet18",
    "timm_resnet18",
    "timm_vit_tiny_patch16_224",
    "vie_slow_r18",
    pytest.param("torchvision_vit_b_16", marks=pytest.mark.long),
]


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

    def test_a_stack_of_frames_is_not_averaged_in_silence(self, pictures):
        both = np.stack([pictures[:2], pictures[1:]], axis=1)
        with pytest.raises(VieError, match="2 frames: vie_single_r18 with history=1 takes 1: load it with the history"):
            seeded(**STILL)(both)

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
        assert list(groups) == ["heads", "conv1", "conv2", "conv3", "conv4", "conv5"]
        assert [groups[name]["lr"] for name in ("conv1", "conv4", "conv5", "heads")] == [0.5**5, 0.25, 0.5, 1.0]
        assert sum(len(group["params"]) for group in groups.values()) == len(list(encoder.parameters()))
        encoder.verify(torch.optim.SGD(encoder.param_groups(0.1)))
        torch.optim.SGD(seeded(**STILL).param_groups(0.1))  # of nothing to train

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
        assert {group["name"]: group["lr"] for group in optimizer.param_groups}["conv5"] == 0.05

    def test_an_optimizer_of_its_own_is_given_what_is_unfrozen(self, pictures):
        encoder = seeded(
            **STILL, mode="partial", train_from={0: "none", 1: "conv5", 2: "all"}, layer_decay=0.5, project=4
        )
        optimizer = torch.optim.SGD(encoder.project.parameters(), lr=1.0)
        for step in range(3):
            encoder.advance(step, optimizer)
        encoder.verify(optimizer)
        rates = {group.get("name"): group["lr"] for group in optimizer.param_groups}
        assert (rates["conv5"], rates["conv4"], rates["conv1"]) == (0.5, 0.25, 0.5**5)

    def test_an_optimizer_goes_on_at_any_stage(self, pictures):
        """As if the training had not been interrupted."""
        config = STILL | {"mode": "partial", "train_from": {0: "conv5", 2: "conv4", 4: "all"}, "project": 4}

        def steps(encoder, optimizer, scheduler, first, end):
            for step in range(first, end):
                encoder.advance(step, optimizer)
                optimizer.zero_grad()
                encoder(pictures).square().mean().backward()
                optimizer.step()
                scheduler.step()

        def made():
            encoder = seeded(**config)
            optimizer = torch.optim.Adam(encoder.param_groups(0.01))
            return encoder, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)

        whole = made()
        steps(*whole, 0, 6)
        first = made()
        steps(*first, 0, 3)
        saved = copy.deepcopy([first[0].encoder_state(), first[1].state_dict(), first[2].state_dict()])
        encoder = seeded(**config)
        encoder.load_encoder_state(saved[0])
        optimizer = torch.optim.Adam(encoder.param_groups(0.01))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)
        optimizer.load_state_dict(saved[1])
        scheduler.load_state_dict(saved[2])
        steps(encoder, optimizer, scheduler, 3, 6)
        assert torch.equal(encoder(pictures), whole[0](pictures))

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
            (STILL | {"views": "wrist"}, r"views='wrist': give the names of the cameras as a list"),
            (STILL | {"views": ["wrist", "wrist"]}, "names a camera twice"),
            (STILL | {"pool_arguments": [1]}, r"pool_arguments=\[1\]: give a mapping"),
            (STILL | {"layer_decay": "a"}, "layer_decay='a'"),
            (STILL | {"history": True}, "history=True: give a whole number"),
            (STILL | {"proprio": ["state"]}, r"proprio=\['state'\]: give names and lengths"),
            (STILL | {"proprio": {"state": "7"}}, "proprio state='7': give a whole number"),
            (STILL | {"project": 0}, "project=0: give a whole number, at least 1"),
            (STILL | {"size": "64"}, "size='64': give the side of the pictures in pixels"),
        ],
    )
    def test_mistakes_are_named(self, config, message):
        with pytest.raises(VieError, match=message):
            from_config(config)

    def test_an_encoder_that_was_loaded_in_inference_mode_can_be_trained(self, pictures):
        with torch.inference_mode():
            encoder = seeded(**STILL, mode="finetune")
        encoder(pictures).sum().backward()
        assert all(parameter.grad is not None for parameter in encoder.trunk.parameters())


@pytest.mark.parametrize("mode", ["frozen", "finetune"])
def test_it_can_be_mapped_over_batches(pictures, mode):
    encoder = seeded(**STILL, mode=mode)
    batches = torch.from_numpy(np.stack([pictures, pictures[::-1]]))
    with torch.no_grad():
        found = torch.vmap(encoder)(batches)
        wanted = torch.stack([encoder(batch) for batch in batches])
    torch.testing.assert_close(found, wanted)


def test_a_trunk_that_keeps_something_in_tests_forgets_it_when_trained():
    """LeViT keeps its attention biases."""
    pytest.importorskip("timm")
    encoder = seeded(source="timm_levit_128s", mode="finetune").eval()
    pixels = np.zeros((1, 224, 224, 3), np.uint8)
    with torch.no_grad():
        before = encoder(pixels)
        for name, value in encoder.trunk.trained().items():
            if "attention_biases" in name:
                value.add_(torch.randn_like(value))
        assert not torch.allclose(encoder.train().eval()(pixels), before)


def test_config_libraries_make_it(saved):
    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--encoder", type=VisualEncoder)
    block = {"class_path": "rl_encoders.load", "init_args": {"source": str(saved), "project": 7}}
    made = parser.instantiate(parser.parse_object({"encoder": block})).encoder
    assert isinstance(made, VisualEncoder)
    assert made.output_dim == 7


class TestCache:
    def test_half_precision_is_kept_and_full_is_given(self, pictures, tmp_path):
        encoder = seeded(**STILL, cache=tmp_path, cache_bytes=2**24, cache_dtype="float16")
        plain = seeded(**STILL)
        first = encoder(pictures)
        assert first.dtype == torch.float32
        assert torch.equal(first, plain(pictures).half().float())
        assert torch.equal(encoder(pictures), first)
        keys = encoder.cache.keys(encoder.feature_fingerprint(), encoder.clips(torch.from_numpy(pictures)[:, None]))
        assert encoder.cache.get(keys, encoder.kept_shape, encoder.kept_dtype).dtype == torch.float16

    def test_a_folder_is_opened_again_at_its_size(self, tmp_path):
        assert seeded(**STILL, cache=tmp_path, cache_bytes=2**24).cache.limit_bytes == 2**24
        assert seeded(**STILL, cache=tmp_path).cache.limit_bytes == 2**24
        with pytest.raises(VieError, match="limit"):
            seeded(**STILL, cache=tmp_path, cache_bytes=2**25)

    def test_it_serves_a_schedule_that_begins_frozen(self, pictures, tmp_path):
        encoder = seeded(**STILL, mode="partial", train_from={0: "none", 5: "all"}, cache=tmp_path, cache_bytes=2**24)
        encoder(pictures)
        assert encoder.cache.statistics().entries == 3
        encoder.advance(5)
        assert encoder(pictures).requires_grad

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"mode": "finetune"}, "mode=finetune trains it from the first step: leave cache out"),
            ({"mode": "partial"}, "mode=partial trains it from the first step"),
            ({"cache_dtype": "bfloat16"}, "cache_dtype=bfloat16: give one of float32, float16"),
        ],
    )
    def test_what_it_cannot_keep_is_refused(self, config, message, tmp_path):
        with pytest.raises(VieError, match=message):
            seeded(**STILL, **config, cache=tmp_path, cache_bytes=2**24)

    def test_a_size_beside_an_open_cache_is_refused(self, tmp_path):
        with pytest.raises(VieError, match="cache_bytes is for a cache that is given as a folder"):
            seeded(**STILL, cache=FeatureCache(tmp_path, 2**24), cache_bytes=2**24)


@pytest.mark.parametrize("pool", ["mean", "attention"])
def test_vectors_are_float32_within_the_autocast_of_a_host(pictures, pool):
    encoder = seeded(**STILL, pool=pool, project=8, proprio={"state": 3})
    with torch.autocast("cpu", torch.bfloat16):
        vector = encoder({"pixels": pictures, "state": np.zeros((len(pictures), 3), np.float32)})
    assert vector.dtype == torch.float32


class TestMemory:
    """Of the batches that were seen last."""

    @pytest.fixture(autouse=True)
    def _fresh(self):
        recent.forget()
        yield
        recent.forget()

    def count(self, encoder):
        seen = []
        encoder.trunk.register_forward_hook(lambda _, inputs, output: seen.append(len(inputs[0])))
        return seen

    def test_three_cameras_go_through_the_trunk_once_in_an_update(self, pictures):
        encoder = seeded(**STILL, views=["a", "b", "c"])
        target = copy.deepcopy(encoder)
        seen, again = self.count(encoder), self.count(target)
        now, after = ({name: pictures + shift + number for number, name in enumerate("abc")} for shift in (0, 10))
        for network in (encoder, target, encoder, target):
            network(now)
            network(after)
        assert len(seen) == 6
        assert again == []

    def test_repeated_pictures_go_through_it_once(self, pictures):
        encoder = seeded(**STILL)
        seen = self.count(encoder)
        repeated = encoder(np.repeat(pictures, 4, axis=0))
        assert seen == [3]
        assert torch.equal(repeated, encoder(pictures).repeat_interleave(4, dim=0))

    def test_what_is_remembered_is_bounded(self, pictures, monkeypatch):
        encoder = seeded(**STILL)
        monkeypatch.setattr(recent, "BUDGET", 2 * (pictures.nbytes + 3 * 64 * 4))
        for shift in range(5):
            encoder(pictures + shift)
        assert len(recent._SEEN) == 2
        monkeypatch.setattr(recent, "BUDGET", 10)
        encoder(pictures + 9)
        assert not any(torch.equal(each.clips[:, 0], torch.from_numpy(pictures + 9)) for each in recent._SEEN)

    def test_however_long_an_agent_acts_a_picture_is_compared_with_few(self, pictures):
        encoder, other = seeded(**STILL), seeded(**STILL, pool="attention")
        other(pictures)
        for shift in range(3 * recent.PER_KEY):
            encoder(pictures + shift)
        assert len(recent._SEEN) == recent.PER_KEY + 1
        seen = self.count(encoder)
        encoder(pictures + 3 * recent.PER_KEY - 1)
        assert seen == []
        encoder(pictures)
        assert seen == [3]

    def test_threads(self, pictures):
        encoder = seeded(**STILL)
        wanted = [encoder(pictures + shift) for shift in range(6)]

        def work(number):
            order = np.random.default_rng(number).integers(0, 6, 40).tolist()
            return all(torch.equal(encoder(pictures + shift), wanted[shift]) for shift in order)

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(work, range(4)))

    def test_threads_of_a_trained_one(self, pictures):
        encoder = seeded(**STILL, mode="finetune").eval()
        with torch.no_grad():
            wanted = [encoder(pictures + shift) for shift in range(6)]

        def work(number):
            with torch.no_grad():
                return all(torch.equal(encoder(pictures + shift), wanted[shift]) for shift in [*range(6)] * 5)

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(work, range(4)))

    def test_it_does_not_stand_before_a_cache(self, pictures, tmp_path):
        plain = seeded(**STILL)
        cache = FeatureCache(tmp_path, 2**24)
        cached = seeded(**STILL, cache=cache)
        plain(pictures)
        cached(pictures)
        assert cache.statistics().entries == 3
        assert copy.deepcopy(cached).cache is cache

    def test_it_holds_no_inference_tensors(self, pictures):
        encoder = seeded(**STILL | {"size": 64}, pool="spatial_softmax")
        with torch.inference_mode():
            encoder(pictures)
            encoder(torch.from_numpy(pictures).clone())
        encoder(pictures).sum().backward()

    def test_networks_of_the_same_weights_are_not_mixed_up(self, pictures):
        pytest.importorskip("timm")
        one, other = (seeded(source="timm_vit_tiny_patch16_224", size=64, embed_dim=dim) for dim in (128, 64))
        assert one.fingerprint() == other.fingerprint()
        assert one.feature_fingerprint() != other.feature_fingerprint()
