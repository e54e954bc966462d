import itertools
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.config import Config
from pretrain.data.corpus import Corpus
from pretrain.data.order import step_generator
from pretrain.methods.heads import HeadedStream
from pretrain.methods.method import Method, Shape
from pretrain.runtime import resolve_sampling
from vie import Sampling, Stream, VieError
from vie.distributed import Ranks
from vie.models.preact import init_weights

FRAMES = 4
GAPS = FRAMES - 1
FORWARD = [order for order in itertools.permutations(range(FRAMES)) if order[0] < order[-1]]
ORDERS = FORWARD + [order[::-1] for order in FORWARD]
"""An order and its reverse, 12 places on, are one class: many actions look as likely backwards."""

PAIRS = list(itertools.combinations(range(FRAMES), 2))

HIDDEN = 512
"""Units that compare the frames of a pair."""

JITTER = 5 / 80
"""Greatest shift of a frame along each axis, in sides of the crop: 5 pixels of 80."""

LEAST_MOTION = 1e-6
"""So that where nothing moves, every start is as likely."""


class OPN(Method):
    """Order prediction network: in which order do four frames of a video belong?

    Lee et al., "Unsupervised Representation Learning by Sorting Sequences" (ICCV 2017), on a 2-D stream. Four evenly
    spaced frames are drawn from a window of the video, the more likely the more moves in them, and shown in one of 24
    orders. Each frame is shifted alone, and one of its colour channels, drawn for it alone, stands in for all three:
    else colours and borders would tell the order. Where the paper measures motion by optical flow, this takes the mean
    absolute difference of successive frames.
    """

    citation = "OPN (Lee et al., ICCV 2017)"

    def __init__(self, config: Config, model: Stream, corpus: Corpus, device: torch.device) -> None:
        """Builds the head.

        Raises:
            VieError: The stream takes more than one frame, or ``baseline.span`` cannot be cut into three.
        """
        if model.sampling.frames != 1:
            raise VieError(
                f"method=opn sorts single frames, and {config.model.name} takes {model.sampling.frames} at a time: "
                "set model.name=vie_single_r18"
            )
        self.span = config.baseline.span
        if self.span < GAPS or self.span % GAPS:
            raise VieError(f"baseline.span={self.span} is no multiple of {GAPS}: four frames lie in it evenly")
        self.seed = config.seed
        self.size = resolve_sampling(config, model.sampling).size
        self.margin = round(JITTER * self.size)
        self.orders = torch.tensor(ORDERS, device=device)
        self.network = HeadedStream(model, PairwiseHead(model.num_features))
        self.stages = {"opn": config.baseline.steps}

    def sampling(self, sampling: Sampling) -> Sampling:
        """A window with room for some starts (7 for a span of 9, in 16 frames), and for the shifts of the frames."""
        gap = self.span // GAPS
        return replace(sampling, frames=self.span + 2 * gap + 1, size=self.size + 2 * self.margin, binned=False)

    def clip_shape(self, clip: Shape) -> Shape:
        return (FRAMES * clip[0], 3, 1, self.size, self.size)

    def inputs(self, clip: Tensor, instances: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Draws frames and orders.

        Returns:
            (4 B, 3, 1, S, S), the four frames of a clip one after another, and (B,) the classes of their orders.
        """
        device, clips = clip.device, len(clip)
        chance = step_generator(self.seed, step, device, Ranks.of_job().rank)

        def draw(below: int, *shape: int) -> Tensor:
            return torch.randint(below, shape, generator=chance, device=device)

        order = draw(len(ORDERS), clips)
        start = draw_start(clip, self.span, chance)
        frame = start[:, None] + self.orders[order] * (self.span // GAPS)
        channel = draw(3, clips, FRAMES)
        pixel = torch.arange(self.size, device=device)
        row, column = draw(2 * self.margin + 1, 2, clips, FRAMES, 1) + pixel
        number = torch.arange(clips, device=device)[:, None]
        # Frame, channel and shift in one look-up: (B, 4, S, S).
        shown = clip[
            *(index[..., None, None] for index in (number, channel, frame)), row[..., :, None], column[..., None, :]
        ]
        return shown.flatten(0, 1)[:, None, None].repeat(1, 3, 1, 1, 1), order % len(FORWARD)

    def loss(self, output: Tensor, target: Tensor, step: int) -> Tensor:
        asked = Ranks.of_job().sum(torch.tensor(len(target), device=output.device))
        return F.cross_entropy(output, target, reduction="sum") / asked


class PairwiseHead(nn.Module):
    """Compares every pair of the four frames by one layer, then judges all comparisons together."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.compare = nn.Linear(2 * features, HIDDEN)
        self.judge = nn.Linear(len(PAIRS) * HIDDEN, len(FORWARD))
        self.apply(init_weights)

    def forward(self, pooled: Tensor) -> Tensor:
        """From features (4 B, C), the frames of a clip one after another, to (B, 12)."""
        frames = pooled.unflatten(0, (-1, FRAMES)).unbind(dim=1)
        pairs = torch.stack([torch.cat([frames[one], frames[other]], dim=1) for one, other in PAIRS], dim=1)
        judged: Tensor = self.judge(F.relu(self.compare(pairs)).flatten(1))
        return judged


def draw_start(clip: Tensor, span: int, chance: torch.Generator) -> Tensor:
    """Starts of a span of frames in each clip, each as likely as its share of the motion.

    Args:
        clip: (B, 3, T, H, W).
        span: Frames from the first to the last; less than T.
        chance: On the device of the clip.

    Returns:
        (B,) in [0, T - span).
    """
    moved = (clip[:, :, 1:] - clip[:, :, :-1]).abs().mean(dim=(1, 3, 4))
    motion = moved.unfold(1, span, 1).mean(dim=2) + LEAST_MOTION
    # Of exponential times with these rates, each is the first with the probability of its share.
    return (torch.empty_like(motion).exponential_(generator=chance) / motion).argmin(dim=1)
