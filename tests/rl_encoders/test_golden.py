"""Vectors that no later version may change: weights and pixels are computed from formulas, never drawn."""

import numpy as np
import pytest
import torch

from rl_encoders import load
from vie import create_model, save_pretrained
from vie.video.resize import Resize

VIT = "timm_vit_tiny_patch16_224"
GOLDEN = {
    # model, way of resizing, times the picture: (mean of the vectors, the first three numbers of the second)
    ("vie_single_r18", "", 1): (228.1316, [35.87876, 6.758718, 171.6531]),
    ("vie_single_r18", "", 3): (
        3131.915,
        [403.0742, 121.0637, 2292.930],
    ),  # shrunk with antialiasing before it is cropped
    ("vie_single_r18", "crop", 1): (120.9058, [26.34475, 0.0, 91.56098]),
    ("vie_single_r18", "squash", 1): (227.9201, [26.54964, 4.675562, 116.9568]),
    ("vie_resnet3d_r18", "", 1): (45.24161, [67.30729, 88.62822, 50.26170]),
    ("vie_slow_r18", "", 1): (789.0411, [0.0, 183.8812, 618.7011]),
    ("torchvision_resnet18", "", 1): (196765.2, [105677.9, 368250.2, 97603.02]),
    (VIT, "", 1): (-0.000648, [0.02512735, 0.09003826, -0.4153847]),
}


@pytest.mark.parametrize(("name", "mode", "times"), GOLDEN)
def test_vectors_stay_what_they_were(name, mode, times, tmp_path):
    if name == VIT:
        pytest.importorskip("timm")
    width = {"width": 4} if name.startswith("vie") else {}
    model = create_model(name, **width).eval()
    for number, (at, value) in enumerate(sorted(model.state_dict().items())):
        if value.is_floating_point():
            count = torch.arange(value.numel(), dtype=torch.float64)
            wave = torch.sin(0.7 * count + number).view(value.shape)
            scale = (2 / value[0].numel()) ** 0.5 if value.ndim > 1 else 0.2
            value.copy_(scale * wave + (value.ndim == 1 and not at.endswith(("bias", "mean"))))
    if mode:
        model.resize = Resize(mode)
    save_pretrained(model, tmp_path / "encoder", model.sampling)
    y, x, colour = np.mgrid[0 : 80 * times, 0 : 100 * times, 0:3]
    pictures = np.stack([(127 + 120 * np.sin(0.1 * y + step * 0.07 * x + colour)).astype(np.uint8) for step in (1, 2)])
    vectors = load(tmp_path / "encoder", size=None if name == VIT else 64)(pictures)
    mean, first = GOLDEN[name, mode, times]
    assert vectors.mean().item() == pytest.approx(mean, rel=1e-3, abs=1e-4)
    assert vectors[1, :3].tolist() == pytest.approx(first, rel=2e-3, abs=1e-4)
