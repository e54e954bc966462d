import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.config import Config
from pretrain.data.corpus import Corpus
from pretrain.methods.heads import HeadedStream
from pretrain.methods.method import Method, Shape
from vie import Stream
from vie.distributed import Ranks
from vie.models.preact import init_weights

TURNS = 4
HIDDEN = 64
"""Units between the pooled feature and the four answers, as in VIE's own run of the method."""


class RotNet(Method):
    """3DRotNet: by how many quarter turns is the clip rotated?

    Jing et al., "Self-Supervised Spatiotemporal Feature Learning via Video Rotation Prediction" (2018). Every clip is
    shown in all four rotations: first all clips upright, then all after one turn, and so on.
    """

    citation = "3DRotNet (Jing et al., arXiv 1811.11387)"

    def __init__(self, config: Config, model: Stream, corpus: Corpus, device: torch.device) -> None:
        head = nn.Sequential(nn.Linear(model.num_features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, TURNS))
        self.network = HeadedStream(model, head.apply(init_weights))
        self.stages = {"rotnet": config.baseline.steps}

    def clip_shape(self, clip: Shape) -> Shape:
        return (TURNS * clip[0], *clip[1:])

    def inputs(self, clip: Tensor, instances: Tensor, step: int) -> tuple[Tensor, Tensor]:
        # Whole clips are turned, over height and width alone: frames of one clip never get different turns.
        rotated = torch.cat([clip.rot90(turns, dims=(3, 4)) for turns in range(TURNS)])
        return rotated, torch.arange(TURNS, device=clip.device).repeat_interleave(len(clip))

    def loss(self, output: Tensor, target: Tensor, step: int) -> Tensor:
        asked = Ranks.of_job().sum(torch.tensor(len(target), device=output.device))
        return F.cross_entropy(output, target, reduction="sum") / asked
