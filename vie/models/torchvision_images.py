from collections.abc import Iterator

from torch import Tensor, nn

from vie.models.registry import register_model
from vie.models.single import frame_taps
from vie.models.stream import Stages, Stream, side_by_side
from vie.video.clips import Sampling


@register_model("torchvision_cifar_r18")
class CifarResNet18(Stream):
    """torchvision's ResNet-18 with the stem for pictures of 32 pixels, without its classifier.

    The stem is a 3x3 convolution of stride 1 without a max-pool, as for CIFAR in He et al. (CVPR 2016); instance
    discrimination on CIFAR-10 takes this network (Wu et al., CVPR 2018, released code). Given T frames, it treats them
    alone and averages their pooled features. The taps are the stem and the four stages.
    """

    sampling = Sampling(frames=1, stride=1, fps=25.0, size=32, short_side=1.0)

    def __init__(self, embed_dim: int = 128) -> None:
        # Here, as torchvision's models bring its video readers along.
        from torchvision.models import resnet18

        trunk = resnet18(weights=None)
        super().__init__(num_features=trunk.fc.in_features, embed_dim=embed_dim)
        trunk.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
        # As torchvision initialises the convolution that stood there.
        nn.init.kaiming_normal_(trunk.conv1.weight, mode="fan_out", nonlinearity="relu")
        trunk.maxpool = nn.Identity()
        trunk.fc = nn.Identity()
        self.trunk = trunk

    def forward_features(self, clip: Tensor) -> dict[str, Tensor]:
        return frame_taps(self._see, clip)

    def stages(self) -> Stages:
        layers = [[f"layer{number}"] for number in range(1, 5)]
        return side_by_side({"trunk": [["conv1", "bn1"], *layers]})

    def _see(self, images: Tensor) -> Iterator[Tensor]:
        trunk = self.trunk
        images = trunk.relu(trunk.bn1(trunk.conv1(images)))
        yield images
        for stage in (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4):
            images = stage(images)
            yield images
