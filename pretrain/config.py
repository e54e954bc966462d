"""What a pretraining run is. ``vie.settings`` lays YAML recipes and ``key=value`` over these defaults."""

from dataclasses import dataclass, field
from typing import Any, Literal

from vie.video.augment import Augmentation
from vie.video.cache import DEFAULT_BYTES


@dataclass
class ModelConfig:
    """The stream to train.

    Attributes:
        name: One of vie.list_models(), or timm_ and the name of a network in timm.
        embed_dim: Dimensions of the embedding.
        width: Channels of the first stage of VIE's own networks, every later stage scales with it; null is the
            network's own.
        start: A saved encoder, or a file of weights (.safetensors, or torch.save's .pth or .pt), that the training
            begins from (VIE-TRN begins from a finished VIE-Single): it must fill the whole trunk by names and shapes;
            heads that it does not fit are new. null begins from random weights.
        start_prefix: Put before the names in start: "trunk." for weights of torchvision, PyTorchVideo or timm.
        start_within: Taken off these names first; those that do not begin with it are left out: "backbone." for a
            network that a method holds as its backbone, "encoder_q." for one of MoCo.
    """

    name: str = "vie_resnet3d_r18"
    embed_dim: int = 128
    width: int | None = None
    start: str | None = None
    start_prefix: str = ""
    start_within: str = ""

    def arguments(self) -> dict[str, Any]:
        """What ``vie.create_model`` takes besides the name; other libraries' networks know no width."""
        return {"embed_dim": self.embed_dim} | ({} if self.width is None else {"width": self.width})


@dataclass
class DataConfig:
    """The prepared corpus and the clips taken from it.

    Attributes:
        path: Folder written by `vie-pretrain prepare`, or the URL of a copy of it: s3://, gs://, https:// or
            whatever else fsspec knows.
        split: One of the corpus's further ways to split (a column `split.NAME` of its listing, or an official split);
            null takes its usual one.
        train_split: Split whose videos are trained on.
        fraction: Share of these videos that are trained on, drawn without replacement by the run's seed; of two
            fractions, the smaller's videos are among the larger's.
        instance_frames: Length of an instance: the clip starts of a video are cut into bins of so many frames, counted
            at fps, each with its own row of the bank; null makes every video one instance.
        val_split: Split that the monitor and the evaluation test on.
        frames: Frames in a clip; null takes the model's own.
        stride: Distance between frames, counted at fps; null takes the model's own.
        fps: Rate in 1/s at which the stride is counted; 0 counts the video's own frames; null takes the model's own.
        size: Side of the crop in pixels; null takes the model's own.
        binned: Whether each frame of a clip is drawn from a bin of stride frames; null takes the model's own.
        short_side: Short side that test pictures are resized to before their centre is cropped, as a multiple of size,
            at least 1; null takes the model's own.
        batch_size: Clips in a step, over all ranks.
        workers: Processes that read ahead; 0 reads in the training process. Each has room for four batches, which is
            locked memory where the device is a GPU.
        cache: "none" decodes from the shards at every step; "device" decodes the corpus once and keeps its frames on
            the training device (all videos must have the same picture size); "device+disk" also keeps them decoded in
            cache_dir, where the next run finds them.
        device_decode: Share of the clips of every batch, from 0 to 1, whose JPEG frames are decoded on the training
            device, not by the workers: for GPUs, where the workers alone are too slow. Pixels may differ by a rounding.
        cache_dir: Folder on a local disk for what is fetched of a corpus behind a URL, for tables made out of an index
            of millions of videos and for decoded frames; all processes of a node share it. null takes
            $XDG_CACHE_HOME/vie.
        cache_bytes: That cache_dir may hold; what was used longest ago goes first.
    """

    path: str = ""
    split: str | None = None
    train_split: str = "train"
    fraction: float = 1.0
    instance_frames: int | None = None
    val_split: str = "val"
    frames: int | None = None
    stride: int | None = None
    fps: float | None = None
    size: int | None = None
    binned: bool | None = None
    short_side: float | None = None
    batch_size: int = 64
    workers: int = 4
    cache: Literal["none", "device", "device+disk"] = "none"
    device_decode: float = 0.0
    cache_dir: str | None = None
    cache_bytes: int = DEFAULT_BYTES


@dataclass
class BankConfig:
    """The memory bank.

    Attributes:
        momentum: Share of the old row in its update.
        temperature: tau of both objectives.
        layout: Of its rows in a job of several ranks: "sharded", divided between them, or "replicated", all on each.
            Both mean the same.
        dtype: Of its rows; "float16" halves what a bank of many millions takes.
    """

    momentum: float = 0.5
    temperature: float = 0.07
    layout: Literal["sharded", "replicated"] = "sharded"
    dtype: Literal["float32", "float16"] = "float32"


@dataclass
class InstanceRecognitionConfig:
    """The first objective.

    Attributes:
        steps: Steps of instance recognition, from the start.
        noise: M, rows drawn from the bank for each clip; null compares with every row instead (the exact softmax, for
            small corpora).
    """

    steps: int = 50_000
    noise: int | None = 4096


@dataclass
class LocalAggregationConfig:
    """The second objective; its clusters are computed before its first step.

    Attributes:
        steps: Steps of local aggregation after those of instance recognition; 0 trains instance recognition alone.
        clusters: K; null takes one for 30 instances, VIE's ratio on Kinetics.
        neighbours: k, the background rows; null takes 512, or an eighth of the instances where that is less.
        clusterings: H, k-means runs whose clusters are joined.
        iterations: Of k-means.
        refresh_epochs: Epochs between two clusterings.
    """

    steps: int = 1_400_000
    clusters: int | None = None
    neighbours: int | None = None
    clusterings: int = 1
    iterations: int = 20
    refresh_epochs: int = 1


@dataclass
class BaselineConfig:
    """Methods that VIE is measured against.

    Attributes:
        steps: Of their training.
        label: Label column that supervised training learns; null takes the corpus's first.
        span: Frames from the first to the last of the four that OPN sorts, counted like the stride; a multiple of 3.
    """

    steps: int = 100_000
    label: str | None = None
    span: int = 9


@dataclass
class OptimConfig:
    """SGD.

    Attributes:
        lr: Learning rate.
        momentum: Not Nesterov's.
        weight_decay: On all parameters but those of batch norm.
        drops: Steps at which the learning rate falls to a tenth.
    """

    lr: float = 0.03
    momentum: float = 0.9
    weight_decay: float = 1e-4
    drops: list[int] = field(default_factory=list)


@dataclass
class RuntimeConfig:
    """Where and how the steps run.

    Attributes:
        device: "auto" takes a GPU if there is one.
        precision: "bf16" is autocast; "auto" takes it where the device computes in it.
        channels_last: Memory layout of weights and activations.
        mode: How the forward and backward pass of a step runs: "eager"; "compile", through torch.compile; "cuda_graph",
            replayed from a CUDA graph on one GPU, where starting kernels takes longer than they do;
            "compile+cuda_graph", both. All but "eager" compile the augmentation.
        sync_batch_norm: Whether batch norm takes its statistics over all ranks (on GPUs), not over each rank's clips.
        threads: CPU threads of the training process; none leaves PyTorch's choice.
    """

    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    channels_last: bool = True
    mode: Literal["eager", "compile", "cuda_graph", "compile+cuda_graph"] = "eager"
    sync_batch_norm: bool = False
    threads: int | None = None


@dataclass
class KnnConfig:
    """The nearest-neighbour classifier; the defaults are VIE's.

    Attributes:
        neighbours: k, that vote.
        temperature: tau of the votes' weights, exp(similarity / tau).
    """

    neighbours: int = 10
    temperature: float = 0.07


@dataclass
class MonitorConfig:
    """What is measured on the way, in steps; 0 turns a measurement off.

    Attributes:
        log_every: Loss, learning rate and throughput.
        knn_every: Nearest-neighbour accuracy of the val split against the bank.
        evaluate_every: Nearest-neighbour and linear accuracy of the pooled features, besides the ends of the stages.
        checkpoint_every: Steps between two checkpoints.
        checkpoints: How many of them are kept.
        clips: Clips of each video that are averaged in tests.
        neighbours: k of the nearest-neighbour classifier, against the bank and of pooled features.
        temperature: Of its votes, which weigh exp(similarity / temperature).
        labels: Label columns to test on; null takes all.
    """

    log_every: int = 50
    knn_every: int = 5000
    evaluate_every: int = 0
    checkpoint_every: int = 5000
    checkpoints: int = 2
    clips: int = 5
    neighbours: int = KnnConfig.neighbours
    temperature: float = KnnConfig.temperature
    labels: list[str] | None = None

    @property
    def knn(self) -> KnnConfig:
        return KnnConfig(self.neighbours, self.temperature)


@dataclass
class Config:
    """One pretraining run of one stream.

    Attributes:
        run: Folder that the run writes to. The same command continues a run that was stopped.
        seed: Of the initialisation, the data order, the augmentation and the noise.
        method: "vie", or what it is measured against.
        model: The stream.
        data: The corpus and its clips.
        augmentation: Strengths.
        bank: The memory bank.
        instance_recognition: The first objective.
        local_aggregation: The second objective.
        baseline: Of the other methods.
        optim: The optimiser and its schedule.
        runtime: Device and precision.
        monitor: Measurements on the way.
    """

    run: str = ""
    seed: int = 0
    method: Literal["vie", "opn", "rotnet", "simclr", "supervised"] = "vie"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)
    bank: BankConfig = field(default_factory=BankConfig)
    instance_recognition: InstanceRecognitionConfig = field(default_factory=InstanceRecognitionConfig)
    local_aggregation: LocalAggregationConfig = field(default_factory=LocalAggregationConfig)
    baseline: BaselineConfig = field(default_factory=BaselineConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)

    @property
    def total_steps(self) -> int:
        if self.method != "vie":
            return self.baseline.steps
        return self.instance_recognition.steps + self.local_aggregation.steps
