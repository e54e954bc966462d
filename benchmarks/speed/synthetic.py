"""Synthetic video files of the format that Kinetics is usually kept in, for measurements without the data set."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

HEIGHT, WIDTH, FPS, SECONDS, GOP = 256, 340, 30, 10, 250


def write_synthetic(folder: Path, count: int) -> Path:
    """Writes 340x256 H.264 files of 10 s at 30 fps with a key frame every 250 frames.

    The content is synthetic: a textured background under a wandering camera, textured discs that move over it, and
    sensor noise.

    Returns:
        ``folder``.
    """
    import av

    folder.mkdir(parents=True)
    for number in range(count):
        with av.open(str(folder / f"{number:03d}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=FPS, options={"crf": "23", "g": str(GOP)})
            stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
            for image in draw_frames(number, FPS * SECONDS).numpy():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
    return folder


def draw_frames(number: int, count: int) -> Tensor:
    """The first frames of a synthetic video: uint8 (T, 256, 340, 3)."""
    rng = np.random.default_rng(number)
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    world = _texture(1024, generator)
    discs = [(_texture(256, generator), rng.uniform(20, 60), rng.uniform(0, 2 * np.pi, 2)) for _ in range(3)]
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    drift = rng.uniform(-1.5, 1.5, size=2)
    zoom = rng.uniform(-0.3, 0.3)
    frames = []
    for t in range(count):
        scale = 0.4 * (1 + zoom * np.sin(t / 40))
        shift = [0.3 * np.sin(drift[0] * t / 60), 0.3 * np.sin(drift[1] * t / 60)]
        theta = torch.tensor([[scale, 0, shift[0]], [0, scale * HEIGHT / WIDTH, shift[1]]], dtype=torch.float32)
        grid = F.affine_grid(theta[None], [1, 3, HEIGHT, WIDTH], align_corners=False)
        image = F.grid_sample(world[None], grid, padding_mode="reflection", align_corners=False)[0]
        for texture, radius, phase in discs:
            centre_y = HEIGHT / 2 + 0.4 * HEIGHT * np.sin(t / 25 + phase[0])
            centre_x = WIDTH / 2 + 0.4 * WIDTH * np.sin(t / 35 + phase[1])
            dy, dx = (y - centre_y) / radius, (x - centre_x) / radius
            inside = (dy**2 + dx**2 < 1).float()
            skin = F.grid_sample(texture[None], torch.stack([dx, dy], -1).float()[None], align_corners=False)[0]
            image = image * (1 - inside) + skin * inside
        image = image * 255 + 4 * torch.randn(image.shape, generator=generator)
        frames.append(image.clamp(0, 255).to(torch.uint8).permute(1, 2, 0))
    return torch.stack(frames)


def _texture(side: int, generator: torch.Generator) -> Tensor:
    """Noise whose strength falls with its frequency, as in natural images; float (3, side, side) in [0, 1]."""
    total = torch.zeros(1, 3, side, side)
    for octave in range(2, 11):
        cells = min(2**octave, side)
        noise = torch.rand(1, 3, cells, cells, generator=generator) - 0.5
        total += F.interpolate(noise, size=(side, side), mode="bicubic") * 1.4 ** (2 - octave)
    grey = total.mean(dim=1, keepdim=True)
    total = grey + 0.3 * (total - grey)  # filmed scenes have muted colours
    return ((total[0] - total.mean()) / (4 * total.std()) + 0.5).clamp(0, 1)
