"""How near one set of images is to another."""

import torch
import torch.nn.functional as F
from torch import Tensor


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio of uint8 images, in dB."""
    return float(10 * torch.log10(255**2 / (a.float() - b.float()).square().mean()))


def ssim(a: Tensor, b: Tensor) -> float:
    """Mean structural similarity of uint8 (T, H, W, 3): luma, and the 11x11 Gaussian window of Wang et al. (2004)."""
    luma = torch.tensor([0.299, 0.587, 0.114])
    x, y = ((images.float() @ luma)[:, None] for images in (a, b))
    bell = torch.exp(-(torch.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = (bell[:, None] * bell / bell.sum() ** 2)[None, None]

    def blur(images: Tensor) -> Tensor:
        return F.conv2d(images, window)

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y, cov = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2, blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * cov + c2)
    return float((similarity / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean())
