"""Encoders as ONNX files."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import onnx
import onnxruntime

from rl_encoders import VisualEncoder, export, load
from rl_encoders.export import export_onnx
from rl_encoders.heads import Heads
from rl_encoders.schedule import Schedule
from rl_encoders.trunk import Trunk
from vie import Sampling, Stream, VieError

STILL = {"source": "vie_single_r18", "width": 8, "size": 32}
CLIPS = {"source": "vie_resnet3d_r18", "width": 8, "size": 32}
CAMERAS = {
    "views": ["front", "wrist"],
    "proprio": {"state": 3, "grip": 1},
    "project": 10,
    "proprio_project": 4,
}


def encoder(**config):
    torch.manual_seed(0)
    return load(**config)


class Tokens(Stream):
    """A stream with a class token, as ViTs have."""

    sampling = Sampling(1, 1, 0.0, 32)

    def __init__(self):
        super().__init__(6, 6)
        self.patches = nn.Conv2d(3, 6, 16, 16)
        self.model_name = "tokens"

    def forward_features(self, clip):
        maps = self.patches(clip.squeeze(2)).unsqueeze(2)
        return {"conv5": maps, "cls": maps.amax(dim=(2, 3, 4), keepdim=True)}


def with_class_token():
    torch.manual_seed(0)
    stream = Tokens().eval()
    trunk = Trunk(stream, [("patches", ["patches.weight", "patches.bias"])])
    return VisualEncoder(trunk, stream.sampling, {}, Heads(pool="cls"), Schedule())


CASES = {
    "still": (lambda: encoder(**STILL), 1),
    "trained": (lambda: encoder(**STILL | {"size": 64}, mode="finetune", pool="spatial_softmax"), None),
    "cls": (with_class_token, None),
    "clips": (lambda: encoder(**CLIPS, mode="partial", update_statistics=True, pool="attention"), None),
    "cameras": (lambda: encoder(**STILL, **CAMERAS, pool="spatial_embeddings", share_views=False, history=2), None),
}


@pytest.mark.parametrize("case", CASES)
def test_a_file_gives_the_vectors_of_the_encoder(case, tmp_path):
    make, batch = CASES[case]
    made = make()
    before = made.fingerprint()
    export_onnx(made, tmp_path / "encoder.onnx", 100, 120, batch)
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx")
    names = [*(made.heads.views or ["pixels"]), *(made.heads.proprio or {})]
    assert [each.name for each in session.get_inputs()] == names
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.onnx"]
    generator = np.random.default_rng(0)
    count = batch or 5
    frames = made.heads.history * made.sampling.frames
    shape = (count, frames, 100, 120, 3) if frames > 1 else (count, 100, 120, 3)
    given = {name: generator.integers(0, 256, shape, np.uint8) for name in made.heads.views or ["pixels"]}
    given |= {
        name: generator.normal(size=(count, length)).astype(np.float32)
        for name, length in (made.heads.proprio or {}).items()
    }
    (found,) = session.run(["embedding"], given)
    with torch.no_grad():
        wanted = made.eval()(given if made.heads.views else given["pixels"]).numpy()
    np.testing.assert_allclose(found, wanted, atol=2e-3 * np.abs(wanted).max())
    assert made.fingerprint() == before
    facts = {each.key: each.value for each in onnx.load(tmp_path / "encoder.onnx").metadata_props}
    assert facts["fingerprint"] == before
    assert facts["model"] == made.trunk.stream.model_name


def test_other_vectors_leave_no_file(tmp_path, monkeypatch):
    (tmp_path / "encoder.onnx").write_text("the one before")
    vectors = export._vectors
    monkeypatch.setattr(export, "_vectors", lambda *arguments: vectors(*arguments) + 0.1)
    with pytest.raises(VieError, match=r"gives vectors that are 0\.1 off PyTorch's"):
        export_onnx(with_class_token(), tmp_path / "encoder.onnx", 32, 32)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["the one before"]


def test_mistakes_are_named(tmp_path, monkeypatch):
    with pytest.raises(VieError, match="cannot be written to"):
        export_onnx(with_class_token(), tmp_path / "absent" / "encoder.onnx", 32, 32)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(VieError, match=r"needs more packages .*pip install 'vie\[onnx\]'"):
        export_onnx(with_class_token(), tmp_path / "encoder.onnx", 32, 32)


def test_what_onnx_cannot_express_is_named(tmp_path):
    made = with_class_token()
    made.project = Unknown()
    with pytest.raises(VieError, match="tokens cannot be expressed in ONNX"):
        export_onnx(made, tmp_path / "encoder.onnx", 32, 32)


class Unknown(nn.Module):
    def forward(self, vectors):
        return torch.linalg.svd(vectors)[2]
