"""An encoder as one ONNX file, from the cameras' pixels to the vector, for whoever runs it without PyTorch."""

import copy
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rl_encoders.encoder import VisualEncoder
from rl_encoders.pooling import Pool
from vie import Stream, VieError
from vie.files import write_atomically
from vie.video.pixels import normalise

OUTPUT = "embedding"
TOLERANCE = 1e-3
"""Of the largest number of a vector: by how much numbers of the file may differ from PyTorch's."""


def export_onnx(
    encoder: VisualEncoder, path: str | os.PathLike[str], height: int, width: int, batch: int | None = 1
) -> None:
    """Writes an encoder with its preprocessing, in float32, once its vectors are found to be those of PyTorch.

    Inputs of the file have the names of the cameras, ``pixels`` for one without: uint8 (B, H, W, 3), or
    (B, T, H, W, 3) where an observation has several frames, T being those of a clip times ``history``. Then come the
    parts of the proprioception, float32 (B, D). The output is ``embedding``, float32 (B, output_dim).

    Args:
        encoder: On any device; it stays as it is.
        path: Of the file; one that is there already is replaced. It is written whole or not at all.
        height: Of the pictures, in pixels; the same for all cameras.
        width: Of the pictures, in pixels.
        batch: Observations in a batch; None for any number.

    Raises:
        VieError: A package is missing, the encoder cannot be expressed in ONNX, the file would give other vectors, or
            it cannot be written.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise VieError(f"export to ONNX needs more packages ({error}): pip install 'vie[onnx]'") from error
    # On the CPU, without the cache: neither can be part of a file.
    plain = copy.copy(encoder)
    plain.cache = None
    plain = copy.deepcopy(plain).cpu().eval()
    plain.precision = "fp32"
    # Of the sizes of an example torch.export takes 1 for a constant.
    examples = [_example(plain, size, height, width) for size in ([batch] if batch else [2, 1, 3])]
    with torch.no_grad():
        wanted = [_vectors(plain, example) for example in examples]
        content = _converted(plain, examples[0], batch)
    model = onnx.load_from_string(content)
    facts = {"model": plain.trunk.stream.model_name, "licence": str(plain.card.get("licence", ""))}
    onnx.helper.set_model_props(model, {**facts, "fingerprint": plain.fingerprint()})
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for example, vectors in zip(examples, wanted, strict=True):
        found = session.run([OUTPUT], {name: part.numpy() for name, part in example.items()})[0]
        apart = float(np.abs(found - vectors).max())
        if not apart <= TOLERANCE * max(1.0, float(np.abs(vectors).max())):
            raise VieError(
                f"the exported {plain.trunk.stream.model_name} gives vectors that are {apart:.2g} off PyTorch's: "
                "export it with another version of torch or onnxscript"
            )
    try:
        write_atomically(Path(path), lambda partial: _write(partial, content))
    except OSError as error:
        raise VieError(f"the encoder cannot be written to {path} ({error}): give a file in a folder that is") from error


def _example(encoder: VisualEncoder, batch: int, height: int, width: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    frames = encoder.heads.history * encoder.sampling.frames
    shape = (batch, frames, height, width, 3) if frames > 1 else (batch, height, width, 3)
    cameras = {
        name: torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8) for name in encoder.heads.cameras
    }
    numbers = {
        name: torch.randn(batch, length, generator=generator) for name, length in (encoder.heads.proprio or {}).items()
    }
    return cameras | numbers


def _vectors(encoder: VisualEncoder, example: dict[str, Tensor]) -> Any:
    named = encoder.heads.views or encoder.heads.proprio
    return encoder(example if named else example["pixels"]).numpy()


def _converted(encoder: VisualEncoder, example: dict[str, Tensor], batch: int | None) -> bytes:
    dynamic = None if batch else (tuple({0: torch.export.Dim("batch")} for _ in example),)
    try:
        program = torch.onnx.export(
            _Whole(encoder),
            tuple(example.values()),
            dynamo=True,
            input_names=list(example),
            output_names=[OUTPUT],
            dynamic_shapes=dynamic,
            verbose=False,
        )
    except Exception as error:  # the exporter passes on whatever its stages raise
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        name = encoder.trunk.stream.model_name
        raise VieError(f"{name} cannot be expressed in ONNX ({reason}): export another network or pool") from error
    assert program is not None
    return program.model_proto.SerializeToString()


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


class _Whole(nn.Module):
    """What an encoder computes, of plain modules and for pictures of one size, as the exporter needs it."""

    def __init__(self, encoder: VisualEncoder) -> None:
        super().__init__()
        self.stream = _whole_stream(encoder)
        self.sampling = encoder.sampling
        self.cameras, self.history = max(1, len(encoder.heads.views)), encoder.heads.history
        self.pools = encoder.pools
        self.project, self.proprio_project = encoder.project, encoder.proprio_project
        self.eval()

    def forward(self, *parts: Tensor) -> Tensor:
        vectors = [self._see(frames, number) for number, frames in enumerate(parts[: self.cameras])]
        joined = self.project(torch.cat(vectors, dim=1))
        if len(parts) > self.cameras:
            numbers = torch.cat(parts[self.cameras :], dim=1)
            joined = torch.cat([joined, self.proprio_project(numbers)], dim=1)
        return joined

    def _see(self, frames: Tensor, camera: int) -> Tensor:
        if frames.ndim == 4:
            frames = frames.unsqueeze(1)
        clips = frames.unflatten(1, (self.history, -1)).flatten(0, 1)
        clip = normalise(self.stream.resize(clips, self.sampling), self.stream.mean, self.stream.std)
        pool = self.pools[camera if len(self.pools) > 1 else 0]
        assert isinstance(pool, Pool)
        kept = pool.keep(self.stream, self.stream.forward_features(clip))
        return pool(kept).unflatten(0, (-1, self.history)).flatten(1)


def _whole_stream(encoder: VisualEncoder) -> Stream:
    stream = copy.deepcopy(encoder.trunk.stream)
    for name, tensor in encoder.trunk.trained().items():
        owner, _, leaf = name.rpartition(".")
        setattr(stream.get_submodule(owner), leaf, nn.Parameter(tensor.detach(), requires_grad=False))
    return stream
