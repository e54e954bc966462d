"""The methods of pretraining, one file each: VIE, and those that it is measured against."""

from collections.abc import Callable

import torch

from pretrain.config import Config
from pretrain.data.corpus import Corpus
from pretrain.methods.method import Method
from pretrain.methods.opn import OPN
from pretrain.methods.rotnet import RotNet
from pretrain.methods.simclr import SimCLR
from pretrain.methods.supervised import Supervised
from pretrain.methods.vie import VIE
from vie import Stream

__all__ = ["Method", "create_method"]

METHODS: dict[str, Callable[[Config, Stream, Corpus, torch.device], Method]] = {
    "opn": OPN,
    "rotnet": RotNet,
    "simclr": SimCLR,
    "supervised": Supervised,
    "vie": VIE,
}


def create_method(config: Config, model: Stream, corpus: Corpus, device: torch.device) -> Method:
    """The method of a run.

    Args:
        config: Of the run, resolved.
        model: The stream to train, on its device.
        corpus: Its instances and their labels.
        device: Where the steps run.

    Raises:
        VieError: The method cannot train this stream on this corpus.
    """
    return METHODS[config.method](config, model, corpus, device)
