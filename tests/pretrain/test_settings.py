import re
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import yaml

from pretrain.cli import main
from pretrain.config import Config, MonitorConfig, OptimConfig
from pretrain.objective import cluster_sizes
from pretrain.runtime import resolve_sampling
from pretrain.settings import RECIPES, dump_config, parse_config
from vie import VieError, create_model, list_models
from vie.settings import find_recipe, flatten
from vie.video import Augmentation, clip_frames


@pytest.fixture
def recipe(tmp_path):
    def write(name: str = "recipe.yaml", **content: object) -> str:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(content))
        return str(path)

    return write


def refused(recipes: list, overrides: list[str]) -> str:
    with pytest.raises(VieError) as caught:
        parse_config(recipes, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_given_is_the_default():
    assert parse_config([]) == Config()


def test_recipes_lie_over_one_another_and_overrides_on_top(recipe):
    first = recipe("a.yaml", seed=1, optim={"lr": 0.5, "drops": [10, 20]}, model={"name": "vie_single_r18", "width": 8})
    second = recipe("b.yaml", optim={"lr": 0.25}, data={"batch_size": 4}, monitor={"labels": ["shape"]})
    config = parse_config([first, second], ["data.batch_size=6", "model.width=16", "run=somewhere"])
    assert config.seed == 1
    assert config.optim == OptimConfig(lr=0.25, drops=[10, 20])
    assert (config.model.name, config.model.width, config.model.embed_dim) == ("vie_single_r18", 16, 128)
    assert config.data.batch_size == 6
    assert config.monitor == MonitorConfig(labels=["shape"])
    assert config.run == "somewhere"
    assert parse_config([second, first]).optim.lr == 0.5


def test_values_of_every_kind():
    config = parse_config(
        [],
        [
            "instance_recognition.noise=null",
            "data.fps=0",
            "data.frames=null",
            "optim.drops=[5,9]",
            "optim.lr=3e-2",
            "runtime.mode=compile",
            "runtime.precision=bf16",
            "augmentation.short_side=[1.0,1.5]",
            "monitor.labels=[shape,motion]",
            "data.path=/some where/with=sign",
        ],
    )
    assert config.instance_recognition.noise is None
    assert config.data.fps == 0
    assert config.data.frames is None
    assert config.optim.drops == [5, 9]
    assert config.optim.lr == 0.03
    assert config.runtime.mode == "compile"
    assert config.runtime.precision == "bf16"
    assert config.augmentation == Augmentation(short_side=(1.0, 1.5))
    assert isinstance(config.augmentation.short_side, tuple)
    assert config.monitor.labels == ["shape", "motion"]
    assert config.data.path == "/some where/with=sign"


def test_dashes_before_an_override_are_tolerated():
    assert parse_config([], ["--optim.lr=0.5"]).optim.lr == 0.5


def test_last_override_counts():
    assert parse_config([], ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("key", "right"),
    [
        ("optim.lrr", "optim.lr"),
        ("lr", "optim.lr"),
        ("model.lr", "optim.lr"),
        ("data.batchsize", "data.batch_size"),
        ("local_aggregation.cluster", "local_aggregation.clusters"),
        ("sede", "seed"),
    ],
)
def test_unknown_key_names_the_right_one(recipe, key, right):
    message = refused([], [f"{key}=1"])
    assert "the command line" in message
    assert f"did you mean '{right}'?" in message
    tree: object = 1
    for part in reversed(key.split(".")):
        tree = {part: tree}
    message = refused([path := recipe(**tree)], [])
    assert path in message
    assert f"did you mean '{right}'?" in message


def test_key_like_no_other():
    assert "--help" in refused([], ["zzzzqqqq=1"])


@pytest.mark.parametrize("override", ["seed", "=3", "--seed", "optim=3", "optim={lr: 1}", "config=x.yaml"])
def test_no_setting(override):
    refused([], [override])


@pytest.mark.parametrize(
    "override",
    [
        "seed=abc",
        "seed=1.5",
        "seed=null",
        "optim.lr=fast",
        "optim.drops=7",
        "optim.drops=[a]",
        "runtime.precision=fp64",
        "runtime.mode=7",
        "data.cache=disk",
        "augmentation.short_side=[1.0]",
        "data.fps=quick",
    ],
)
def test_wrong_type(recipe, override):
    key, _, value = override.partition("=")
    assert key in refused([], [override])
    *groups, name = key.split(".")
    tree: dict = {name: yaml.safe_load(value)}
    for group in groups:
        tree = {group: tree}
    assert key in refused([recipe(**tree)], [])


@pytest.mark.parametrize(
    "override",
    [
        "data.batch_size=0",
        "data.batch_size=-2",
        "data.stride=-1",
        "data.workers=-1",
        "bank.temperature=0",
        "instance_recognition.steps=-1",
        "local_aggregation.clusters=-1",
        "local_aggregation.neighbours=-1",
        "local_aggregation.refresh_epochs=0",
        "optim.momentum=-1",
        "monitor.clips=0",
    ],
)
def test_out_of_range(override):
    assert override.partition("=")[0] in refused([], [override])


@pytest.mark.parametrize("content", ["- a\n- b\n", "just words", "a: [1,\n", "\x00\xff", "7"])
def test_no_recipe(tmp_path, content):
    path = tmp_path / "bad.yaml"
    path.write_text(content, encoding="latin-1")
    assert str(path) in refused([path], [])


def test_empty_recipe_changes_nothing(tmp_path):
    path = tmp_path / "empty.yaml"
    path.write_text("# nothing yet\n")
    assert parse_config([path]) == Config()


def test_missing_recipe(tmp_path):
    assert "there is no recipe" in refused([tmp_path / "nowhere.yaml"], [])
    names = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    if names:
        assert f"did you mean '{names[0]}'?" in refused([names[0] + "x"], [])


def test_packaged_recipes_parse():
    recipes = sorted(RECIPES.glob("*.yaml"))
    assert recipes
    for path in recipes:
        assert find_recipe(path.stem, RECIPES) == path
        config = parse_config([path.stem])
        assert config != Config(), path
        assert config.model.name in list_models()
        assert config.total_steps > 0


def schedule(config: Config) -> tuple[int, int, list[int]]:
    return config.instance_recognition.steps, config.total_steps, config.optim.drops


ABLATIONS = {
    # recipe: share, instance_frames, K, k, steps of IR, all steps, drops
    "ir": (1.0, None, 8000, 512, 1375000, 1375000, [845011, 1280011]),
    "p30": (0.3, None, 2400, 512, 50000, 1375000, [860011, 1060011]),
    "p70": (0.7, None, 5600, 512, 50000, 1375000, [860011, 1060011]),
    "bins52": (1.0, 52, 10000, 4096, 50000, 1660000, [1220011, 1505011]),
    "bins130": (1.0, 130, 5000, 4096, 50000, 1755000, [1375011, 1600011]),
    "k4000": (1.0, None, 4000, 512, 50000, 1375000, [1025011, 1220011]),
    "bg1024": (1.0, None, 8000, 1024, 50000, 1375000, [985011, 1255011]),
}


STREAMS = {  # batch, K, k, of instance recognition, in all, drops; the release's settings
    "single": (128, 8000, 512, 50000, 1375000, [1020011, 1220011]),
    "resnet3d": (64, 10000, 4096, 50000, 1450000, [974946, 1304998]),
    "slow": (64, 8000, 512, 50000, 1440000, [1170011, 1380011]),
    "slowfast": (64, 8000, 512, 50000, 1350000, [1120011, 1294998]),
}


@pytest.mark.parametrize("name", STREAMS)
def test_streams_have_the_schedule_of_the_release(name):
    config = parse_config([f"kinetics400_{name}"])
    aggregation, optim = config.local_aggregation, config.optim
    assert (config.data.batch_size, aggregation.clusters, aggregation.neighbours, *schedule(config)) == STREAMS[name]
    assert (optim.lr, optim.momentum, optim.weight_decay) == (0.03, 0.9, 1e-4)
    assert (config.instance_recognition.noise, config.bank.momentum, config.bank.temperature) == (4096, 0.5, 0.07)
    assert (aggregation.clusterings, aggregation.iterations, aggregation.refresh_epochs) == (1, 20, 1)
    assert config.augmentation == Augmentation("random", (8 / 7, 10 / 7), 0.4, 0.4, 0.4, 0.4, 0.3, 0.5)


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_differ_from_the_single_stream_in_what_they_are_of(name):
    single = parse_config(["kinetics400_single"])
    config = parse_config(["kinetics400_single", f"kinetics400_{name}"])
    share, instance_frames, clusters, neighbours, *plan = ABLATIONS[name]
    assert (config.data.fraction, config.data.instance_frames) == (share, instance_frames)
    assert (config.local_aggregation.clusters, config.local_aggregation.neighbours) == (clusters, neighbours)
    assert schedule(config) == tuple(plan)
    assert config.optim.drops[-1] < config.total_steps
    given = set(flatten(yaml.safe_load(find_recipe(f"kinetics400_{name}", RECIPES).read_text())))
    before, after = flatten(asdict(single)), flatten(asdict(config))
    changed = {key for key, value in after.items() if before[key] != value}
    assert changed <= given
    assert {key.partition(".")[0] for key in changed} <= {
        "data",
        "instance_recognition",
        "local_aggregation",
        "optim",
    }
    assert config.data.batch_size == 128
    assert config.model.name == "vie_single_r18"


def test_trn_goes_on_from_the_single_stream():
    """The release's drops count from Single's beginning; ours from TRN's, with instance recognition before them."""
    single, trn = parse_config(["kinetics400_single"]), parse_config(["kinetics400_trn"])
    first, total, drops = schedule(trn)
    assert [drop - first + single.total_steps for drop in drops] == [1455011, 1570011]
    assert drops[-1] < total
    assert (trn.data.batch_size, trn.local_aggregation.clusters, trn.local_aggregation.neighbours) == (64, 8000, 512)
    assert trn.model.start == "runs/kinetics400_single/encoder-la"


@pytest.mark.parametrize("base", ["digits_dynamic", "objects"])
@pytest.mark.parametrize(
    ("stream", "model", "first", "last"),
    [
        ("single", "vie_single_r18", [0], [15]),
        ("slow16", "vie_slow_r18", [0, 4, 8, 12], [3, 7, 11, 15]),
        ("slowfast16", "vie_slowfast_r18", list(range(16)), list(range(16))),
        ("trn16", "vie_trn_r18", [0, 4, 8, 12], [3, 7, 11, 15]),
    ],
)
def test_streams_on_videos_of_16_frames(base, stream, model, first, last):
    """A stream leaves the schedule alone; its clips reach over the whole video, and its network takes them."""
    config, under = parse_config([base, stream]), parse_config([base])
    assert replace(config, model=under.model, data=under.data) == under
    assert replace(config.data, frames=under.data.frames, stride=under.data.stride) == under.data
    assert config.model.name == model
    network = create_model(model, embed_dim=8, width=8)
    sampling = resolve_sampling(config, network.sampling)
    videos = np.array([16, 16]), np.array([25, 25], np.float32)
    frames = clip_frames(sampling, *videos, np.array([0, 0.999]), in_bin=np.array([[0.0], [0.999]]))
    assert frames.tolist() == [first, last]
    clip = torch.randn(2, 3, sampling.frames, sampling.size, sampling.size)
    assert network.eval()(clip).shape == (2, 8)


def test_a_recipe_lies_over_another(tmp_path):
    (tmp_path / "low.yaml").write_text("over: small_dynamic\nseed: 5\nmodel: {width: 8}\n")
    (tmp_path / "high.yaml").write_text(f"seed: 6\nover: {tmp_path / 'low.yaml'}\n")
    config = parse_config([tmp_path / "high.yaml"])
    assert (config.seed, config.model.width, config.model.name) == (6, 8, "vie_resnet3d_r18")
    assert config.instance_recognition.steps == 6000
    (tmp_path / "beside.yaml").write_text("over: low.yaml\n")
    assert parse_config([tmp_path / "beside.yaml"]).seed == 5
    # What lies below both is laid once, and takes back nothing.
    (tmp_path / "batch.yaml").write_text("over: small_dynamic\ndata: {batch_size: 7}\n")
    config = parse_config([tmp_path / "batch.yaml", "small_slow"])
    assert (config.data.batch_size, config.model.name) == (7, "vie_slow_r18")


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ("{itself}", "lies over itself (a over a): take its key `over` away"),
        ("[small_static, single]", "no name: give that of one recipe"),
        ("smal_static", "there is no recipe 'smal_static': did you mean 'small_static'?"),
    ],
)
def test_what_a_recipe_cannot_lie_over(tmp_path, over, message):
    path = tmp_path / "a.yaml"
    path.write_text(f"over: {over.format(itself=path)}\n")
    with pytest.raises(VieError, match=re.escape(message)):
        parse_config([path])


def test_streams_of_small_corpora_share_a_schedule():
    """They differ in the network alone."""
    under = parse_config(["small_dynamic"])
    for stream in ("static", "slow", "slowfast", "trn"):
        config = parse_config([f"small_{stream}"])
        assert config.model.name != under.model.name
        assert replace(config, model=under.model) == under


def test_objects():
    """30,000 videos: at their rate of 30 to a cluster, a thousand clusters."""
    config = parse_config(["objects"])
    assert schedule(config) == (14000, 20000, [17000])
    assert cluster_sizes(config.local_aggregation, 30_000) == (1000, 512)
    assert (config.data.size, config.data.batch_size, config.instance_recognition.noise) == (56, 128, None)


def test_round_trip(tmp_path):
    settings = [
        "run=x y",
        "optim.drops=[5]",
        "data.fps=12.5",
        "instance_recognition.noise=null",
        "augmentation.hue=0.1",
        "monitor.labels=[shape]",
        "model.name=vie_single_r18",
        "data.path='123'",
        "optim.lr=1e-5",
    ]
    for config in (Config(), parse_config([], settings)):
        path = tmp_path / "config.yaml"
        path.write_text(dump_config(config))
        assert parse_config([path]) == config
        assert yaml.safe_load(path.read_text())["optim"]["lr"] == config.optim.lr
    assert parse_config([path], ["seed=9"]) == replace(config, seed=9)


def leaves(tree: dict, prefix: str = "") -> list[str]:
    return [
        name
        for key, value in tree.items()
        for name in (leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key])
    ]


def test_help_lists_every_setting(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--help"])
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for key in leaves(asdict(Config())):
        assert f"--{key} " in text
    assert "Learning rate" in text  # with its description
    assert "0.03" in text
