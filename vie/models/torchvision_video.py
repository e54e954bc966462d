from functools import partial

from torch import Tensor, nn

from vie.models.registry import register_model
from vie.models.stream import TAPS, Stages, Stream, side_by_side
from vie.models.torchvision_build import build, licence, origin
from vie.video.clips import Sampling


class TorchvisionVideo(Stream):
    """A video ResNet-18 of torchvision without its classifier.

    Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action Recognition" (CVPR 2018): R3D, MC3 and
    R(2+1)D. The taps are the stem (it has no pool) and the four stages. The clip is the one of torchvision's own
    weights: 16 consecutive frames at 15 frames per second, 112 pixels.
    """

    sampling = Sampling(frames=16, stride=1, fps=15.0, size=112)
    # Those of Kinetics-400, as torchvision's weights have them (R3D_18_Weights.KINETICS400_V1.transforms()).
    mean = (0.43216, 0.394666, 0.37645)
    std = (0.22803, 0.22145, 0.216989)

    def __init__(self, builder: str, /, embed_dim: int = 128, weights: str | None = None) -> None:
        """Builds the network.

        Args:
            builder: Its name in torchvision.
            embed_dim: Dimensions of the embedding.
            weights: "default", a name such as "KINETICS400_V1", or a file of torchvision's; None begins at random.

        Raises:
            VieError: There are no such weights, or they cannot be had.
        """
        trunk, entry = build(builder, weights, video=True)
        super().__init__(num_features=trunk.fc.in_features, embed_dim=embed_dim)
        if weights is not None:
            self.rebuilt = {"weights": None}
            self.origin, self.licence = origin(weights, entry), licence(weights, entry)
        trunk.fc = nn.Identity()
        self.trunk = trunk

    def forward_features(self, clip: Tensor) -> dict[str, Tensor]:
        taps: dict[str, Tensor] = {}
        stages = (self.trunk.stem, self.trunk.layer1, self.trunk.layer2, self.trunk.layer3, self.trunk.layer4)
        for name, stage in zip(TAPS, stages, strict=True):
            clip = taps[name] = stage(clip)
        return taps

    def stages(self) -> Stages:
        return side_by_side({"trunk": [["stem"], *([f"layer{number}"] for number in range(1, 5))]})


for name in ("r3d_18", "mc3_18", "r2plus1d_18"):
    register_model(f"torchvision_{name}")(partial(TorchvisionVideo, name))
