"""Vectors that no later version may change: weights and pixels are computed from formulas, never drawn."""

import numpy as np
import pytest
import torch

from rl_encoders import load
from vie import create_model, save_pretrained

GOLDEN = {
    # model: (mean of the vectors, the first three numbers of the second)
    "vie_single_r18": (228.1316, [35.87876, 6.758718, 171.6531]),
    "vie_resnet3d_r18": (45.24161, [67.30729, 88.62822, 50.26170]),
    "vie_slow_r18": (789.0411, [0.0, 183.8812, 618.7011]),
    "torchvision_resnet18": (196765.2, [105677.9, 368250.2, 97603.02]),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_vectors_stay_what_they_were(name, tmp_path):
    width = {"width": 4} if name.startswith("vie") else {}
    model = create_model(name, **width).eval()
    for number, (at, value) in enumerate(sorted(model.state_dict().items())):
        if value.is_floating_point():
            count = torch.arange(value.numel(), dtype=torch.float64)
            wave = torch.sin(0.7 * count + number).view(value.shape)
            scale = (2 / value[0].numel()) ** 0.5 if value.ndim > 1 else 0.2
            value.copy_(scale * wave + (value.ndim == 1 and not at.endswith(("bias", "mean"))))
    save_pretrained(model, tmp_path / "encoder", model.sampling)
    y, x, colour = np.mgrid[0:80, 0:100, 0:3]
    pictures = np.stack([(127 + 120 * np.sin(0.1 * y + step * 0.07 * x + colour)).astype(np.uint8) for step in (1, 2)])
    vectors = load(tmp_path / "encoder", size=64)(pictures)
    mean, first = GOLDEN[name]
    assert vectors.mean().item() == pytest.approx(mean, rel=1e-3)
    assert vectors[1, :3].tolist() == pytest.approx(first, rel=2e-3, abs=1e-5)
