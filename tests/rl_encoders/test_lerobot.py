"""Encoders in LeRobot's own policies, processors, optimizers and training.

In an environment of their own: pip install -e '.[lerobot]' 'lerobot[training]' pytest pytest-xdist.
"""

import copy
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lerobot", reason="LeRobot wants a newer gymnasium than d3rlpy: it has an environment of its own")

from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from lerobot.policies.factory import get_policy_class, make_pre_post_processors

from rl_encoders import VisualEncoder, load, recent
from rl_encoders.adapters.lerobot import (
    VieACTConfig,
    VieACTPolicy,
    VieDiffusionConfig,
    VieDiffusionPolicy,
    encoders,
    verify,
)
from vie import VieError, create_model, save_pretrained

CAMERAS = ("observation.images.front", "observation.images.wrist")
HEIGHT, WIDTH, BATCH, CHUNK = 40, 56, 3, 8
STATE, ACTIONS = 4, 2
SMALL = {
    "act": {
        "chunk_size": CHUNK,
        "n_action_steps": 2,
        "dim_model": 16,
        "n_heads": 2,
        "dim_feedforward": 16,
        "n_encoder_layers": 1,
        "n_vae_encoder_layers": 1,
        "latent_dim": 4,
    },
    "diffusion": {
        "n_obs_steps": 2,
        "horizon": CHUNK,
        "n_action_steps": 2,
        "down_dims": (16, 32),
        "diffusion_step_embed_dim": 8,
        "spatial_softmax_num_keypoints": 4,
        "num_train_timesteps": 4,
    },
}
CONFIGS = {"act": VieACTConfig, "diffusion": VieDiffusionConfig}
POLICIES = {"act": VieACTPolicy, "diffusion": VieDiffusionPolicy}


def config(kind, source, cameras=CAMERAS[:1], encoder=None, **more):
    return CONFIGS[kind](
        input_features={
            **{name: PolicyFeature(FeatureType.VISUAL, (3, HEIGHT, WIDTH)) for name in cameras},
            "observation.state": PolicyFeature(FeatureType.STATE, (STATE,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (ACTIONS,))},
        device="cpu",
        encoder={"source": source, "size": 64, **(encoder or {})},
        **(SMALL[kind] | more),
    )


def policy(kind, source, **more):
    torch.manual_seed(0)
    return POLICIES[kind](config(kind, source, **more))


@pytest.fixture(scope="module")
def pixels():
    return torch.randint(0, 256, (BATCH, 2, 3, HEIGHT, WIDTH), generator=torch.manual_seed(0), dtype=torch.uint8)


@pytest.fixture
def batch(pixels):
    """As a data loader over LeRobot's dataset gives it, with two observations in a row."""
    random = torch.manual_seed(1)
    return {
        **{name: pixels.roll(number, 0) / 255 for number, name in enumerate(CAMERAS)},
        "observation.state": torch.randn(BATCH, 2, STATE, generator=random),
        "action": torch.rand(BATCH, CHUNK, ACTIONS, generator=random),
        "action_is_pad": torch.zeros(BATCH, CHUNK, dtype=torch.bool),
    }


def seen_by(kind, batch):
    """ACT takes one observation."""
    if kind == "diffusion":
        return dict(batch)
    return {name: value[:, -1] if name.startswith("observation") else value for name, value in batch.items()}


def processors(kind, source, **more):
    """With the statistics that LeRobot computes of pictures too."""
    numbers = {"min": -2 * torch.ones(1), "max": 2 * torch.ones(1), "mean": torch.zeros(1), "std": torch.ones(1)}
    picture = {name: value.reshape(1, 1, 1) + 0.4 for name, value in numbers.items()}
    stats = {"observation.state": numbers, "action": numbers, **dict.fromkeys(CAMERAS, picture)}
    return make_pre_post_processors(config(kind, source, **more), dataset_stats=stats)


def actions(made, kind, batch):
    """Of observations one after the other, as a robot has them."""
    made.reset()
    torch.manual_seed(2)
    found = []
    for step in range(2):
        observation = {name: value[:, step] for name, value in batch.items() if name.startswith("observation")}
        found.append(made.select_action(processors(kind, "")[0](observation)))
    return torch.stack(found)


def train(made, kind, batch, steps=3):
    optimizer = made.config.get_optimizer_preset().build(made.get_optim_params())
    before = processors(kind, "")[0](seen_by(kind, batch))
    made.train()
    for _ in range(steps):
        loss, _ = made.forward(before)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("mode", ["frozen", "partial", "finetune"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_policy_learns_and_keeps_the_contract(kind, source, batch, pixels, tmp_path, mode):
    made = policy(kind, source, encoder={"mode": mode}, optimizer_lr=1e-2)
    verify(made, as_loaded=True)
    (encoder,) = encoders(made)
    wanted = load(source, size=64, pool="spatial_softmax").features(pixels[:, :1].movedim(2, -1))
    before = encoder.features(pixels[:, :1].movedim(2, -1))
    assert torch.equal(before, wanted)
    others = {name: value.clone() for name, value in made.named_parameters() if "trunk" not in name}
    known = encoder.fingerprint()

    optimizer = train(made, kind, batch)
    verify(made, optimizer)
    assert (encoder.fingerprint() == known) == (mode == "frozen")
    after = encoder.features(pixels[:, :1].movedim(2, -1))
    assert torch.equal(after, wanted) == (mode == "frozen")
    assert any(not torch.equal(value, others[name]) for name, value in made.named_parameters() if name in others)
    assert (not any("trunk.weights" in name for name in made.state_dict())) == (mode == "frozen")

    acted = actions(made, kind, batch)
    made.save_pretrained(tmp_path)
    again = POLICIES[kind].from_pretrained(tmp_path)
    verify(again)
    assert again.config.encoder == made.config.encoder
    assert encoders(again)[0].fingerprint() == encoder.fingerprint()
    assert torch.equal(actions(again, kind, batch), acted)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Folder of a small dataset, as LeRobot writes it."""
    pytest.importorskip("datasets", reason="lerobot-train needs vie[lerobot] and lerobot[training]")
    pytest.importorskip("accelerate", reason="lerobot-train needs vie[lerobot] and lerobot[training]")
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    folder = tmp_path_factory.mktemp("dataset") / "dots"
    features = {
        CAMERAS[0]: {"dtype": "image", "shape": (3, HEIGHT, WIDTH), "names": ["channels", "height", "width"]},
        "observation.state": {"dtype": "float32", "shape": (STATE,), "names": None},
        "action": {"dtype": "float32", "shape": (ACTIONS,), "names": None},
    }
    made = LeRobotDataset.create("tests/dots", fps=10, features=features, root=folder, use_videos=False)
    random = np.random.default_rng(0)
    for _ in range(2):
        for _ in range(2 * CHUNK):
            made.add_frame(
                {
                    CAMERAS[0]: random.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8),
                    "observation.state": random.standard_normal(STATE).astype(np.float32),
                    "action": random.random(ACTIONS).astype(np.float32),
                    "task": "none",
                }
            )
        made.save_episode()
    made.finalize()
    return folder


def lerobot_train(monkeypatch, *settings):
    from lerobot.scripts.lerobot_train import main

    plugin = "--policy.discover_packages_path=rl_encoders.adapters.lerobot"
    monkeypatch.setattr(sys, "argv", ["lerobot-train", plugin, *settings])
    main()


@pytest.mark.parametrize("mode", ["frozen", "partial", "finetune"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_lerobot_s_own_training_keeps_the_contract_and_goes_on(kind, source, dataset, tmp_path, monkeypatch, mode):
    small = {name: list(value) if isinstance(value, tuple) else value for name, value in SMALL[kind].items()}
    out = tmp_path / "run"
    lerobot_train(
        monkeypatch,
        f"--policy.type=vie_{kind}",
        f"--policy.encoder={{source: {source}, mode: {mode}, size: 64}}",
        *[f"--policy.{name}={value}" for name, value in small.items()],
        *["--policy.device=cpu", "--policy.push_to_hub=false", "--wandb.enable=false"],
        *["--dataset.repo_id=tests/dots", f"--dataset.root={dataset}", f"--output_dir={out}"],
        *["--steps=2", "--save_freq=2", "--batch_size=2", "--num_workers=0"],
    )
    saved = out / "checkpoints/last/pretrained_model"
    after = POLICIES[kind].from_pretrained(saved)
    lerobot_train(monkeypatch, f"--config_path={saved / 'train_config.json'}", "--resume=true", "--steps=4")
    assert (out / "checkpoints/last").resolve().name.endswith("4")
    later = POLICIES[kind].from_pretrained(saved)
    found = [load(source, size=64).fingerprint()]
    for made in (after, later):
        verify(made)
        found.append(encoders(made)[0].fingerprint())
    assert len(set(found)) == (1 if mode == "frozen" else 3)


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_trunk_is_in_the_optimizer_if_it_is_trained_and_at_its_own_rate(kind, source):
    names = {"optimizer_lr": 1e-3} | ({"optimizer_lr_backbone": 1e-4} if kind == "act" else {})
    frozen = policy(kind, source, **names).get_optim_params()
    assert len(frozen) == 1
    made = policy(kind, source, encoder={"mode": "finetune", "layer_decay": 0.5}, **names)
    optimizer = made.config.get_optimizer_preset().build(made.get_optim_params())
    verify(made, optimizer, as_loaded=True)
    held = [id(value) for group in optimizer.param_groups for value in group["params"]]
    assert sorted(held) == sorted(id(value) for value in made.parameters())
    assert optimizer.param_groups[0]["lr"] == 1e-3
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups[1:]}
    stages = [stage for stage in encoders(made)[0].trunk.stages if stage in rates]
    top = 1e-4 if kind == "act" else 1e-3
    assert [rates[stage] for stage in reversed(stages)] == pytest.approx(
        [top / 2 ** (n + 1) for n in range(len(stages))]
    )


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_encoder_sees_the_camera_s_own_pixels(kind, source, batch, pixels, monkeypatch):
    made = policy(kind, source, cameras=CAMERAS)
    seen, features = [], VisualEncoder.features
    monkeypatch.setattr(VisualEncoder, "features", lambda of, frames: (seen.append(frames), features(of, frames))[1])
    made.forward(processors(kind, "", cameras=CAMERAS)[0](seen_by(kind, batch)))
    found = torch.cat(seen)[:, 0]
    given = pixels if kind == "diffusion" else pixels[:, 1:]
    both = torch.stack([given, given.roll(1, 0)], dim=2)  # (B, steps, cameras, 3, H, W)
    order = both.flatten(0, 2) if kind == "diffusion" else both.transpose(0, 2).flatten(0, 2)
    if kind == "diffusion" and made.config.use_separate_rgb_encoder_per_camera:
        order = both.movedim(2, 0).flatten(0, 2)
    assert torch.equal(found, order.movedim(1, -1))


def test_cameras_of_their_own_encoders_hold_the_frozen_trunk_once(source, batch):
    more = {"cameras": CAMERAS, "use_separate_rgb_encoder_per_camera": True}
    made = policy("diffusion", source, **more)
    assert len(encoders(made)) == 2
    twin = copy.deepcopy(made)  # as averages of weights are kept
    tensors = [value for each in encoders(made) + encoders(twin) for value in each.trunk.frozen().values()]
    one = {value.data_ptr() for value in encoders(made)[0].trunk.frozen().values()}
    assert {value.data_ptr() for value in tensors} == one
    train(made, "diffusion", batch, steps=1)
    verify(twin, as_loaded=True)
    made = policy("diffusion", source, encoder={"mode": "finetune"}, **more)
    optimizer = train(made, "diffusion", batch)
    verify(made, optimizer)
    assert encoders(made)[0].fingerprint() != encoders(made)[1].fingerprint()


def test_pictures_in_a_cache_do_not_go_through_the_trunk(source, pixels, tmp_path):
    made = policy("diffusion", source, encoder={"cache": str(tmp_path)}, use_separate_rgb_encoder_per_camera=False)
    backbone = made.diffusion.rgb_encoder.backbone
    first = backbone(pixels[:, 0] / 255)
    recent.forget()
    backbone.encoder.trunk.register_forward_hook(lambda *_: pytest.fail("the trunk was asked"))
    assert torch.equal(backbone(pixels[:, 0] / 255), first)


def test_encoders_of_clips_see_stills(tmp_path, batch):
    torch.manual_seed(0)
    model = create_model("vie_resnet3d_r18", width=4).eval()
    save_pretrained(model, tmp_path, model.sampling)
    made = policy("act", str(tmp_path))
    train(made, "act", batch, steps=1)
    verify(made)


def test_augmented_pictures_are_rounded_and_others_refused(source, pixels):
    backbone = policy("act", source).model.backbone
    pictures = pixels[:, 0]
    wanted = backbone(pictures)["feature_map"]
    assert torch.equal(backbone(pictures / 255)["feature_map"], wanted)
    for change in (0.0015, -0.0015):
        assert torch.equal(backbone((pictures / 255 + change).clamp(0, 1))["feature_map"], wanted)
    for wrong in (pictures.float(), (pictures / 255 - 0.4) / 0.2, torch.full_like(pictures / 255, torch.nan)):
        with pytest.raises(VieError, match="not from 0 to 1: something normalises them ahead of the encoder"):
            backbone(wrong)


def test_lerobot_finds_the_policies_by_name(source):
    for kind in CONFIGS:
        assert get_policy_class(f"vie_{kind}") is POLICIES[kind]
        assert config(kind, source).type == f"vie_{kind}"


def test_lerobot_s_own_policies_refuse_the_folders(source, tmp_path):
    for kind, own in (("act", ACTPolicy), ("diffusion", DiffusionPolicy)):
        policy(kind, source).save_pretrained(tmp_path / kind)
        with pytest.raises(AttributeError, match=f"resnet_replaced_in_{POLICIES[kind].__name__}"):
            own.from_pretrained(tmp_path / kind)


def test_a_policy_of_another_encoder_is_refused(source, tmp_path):
    policy("act", source).save_pretrained(tmp_path / "policy")
    torch.manual_seed(1)
    model = create_model("vie_single_r18", width=8).eval()
    save_pretrained(model, tmp_path / "other", model.sampling)
    changed = config("act", str(tmp_path / "other"))
    with pytest.raises(VieError, match="belongs to another encoder"):
        VieACTPolicy.from_pretrained(tmp_path / "policy", config=changed)


def test_mistakes_are_named(source):
    mean = {"VISUAL": NormalizationMode.MEAN_STD}
    gray = {CAMERAS[0]: PolicyFeature(FeatureType.VISUAL, (1, HEIGHT, WIDTH))}
    blind = {"observation.environment_state": PolicyFeature(FeatureType.ENV, (3,))}
    for kind, more, message in (
        (
            "act",
            {"vision_backbone": "resnet34"},
            "vision_backbone=resnet34 is for the ResNet that the encoder replaces",
        ),
        ("diffusion", {"use_group_norm": True}, "use_group_norm=True is for the ResNet"),
        ("diffusion", {"resize_shape": (32, 32)}, "resize_shape=.* is for the ResNet"),
        ("act", {"normalization_mapping": mean}, "VISUAL=MEAN_STD: the encoder normalises pixels as its weights"),
        ("act", {"encoder": {"pool": "mean", "views": ["a"]}}, "is asked for pool, views: LeRobot's policy reads"),
        ("act", {"encoder": {"mode": "partial", "train_from": {0: "none", 9: "all"}}}, "give train_from one stage"),
        ("diffusion", {"encoder": {"size": 32}}, "is one place, and spatial softmax .* size=PIXELS"),
    ):
        with pytest.raises(VieError, match=message):
            policy(kind, source, **more)
    for features, message in ((gray, r"has the shape \(1, 40, 56\)"), (blind, "the policy has no cameras")):
        wrong = config("act", source)
        wrong.input_features = features
        with pytest.raises(VieError, match=message):
            VieACTPolicy(wrong)
    with pytest.raises(VieError, match="is a ACTConfig: give a VieACTConfig"):
        VieACTPolicy(ACTConfig(device="cpu"))
    with pytest.raises(VieError, match="has no encoder: make it with VieACTConfig"):
        verify(torch.nn.Linear(1, 1))


def test_the_documentation_s_example_runs(source, tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "docs/plug_in.md").read_text()
    (block,) = (
        found for found in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S) if "adapters.lerobot" in found
    )
    (tmp_path / "runs/mine").mkdir(parents=True)
    (tmp_path / "runs/mine/encoder-la").symlink_to(source)
    monkeypatch.chdir(tmp_path)
    exec(block, {})
