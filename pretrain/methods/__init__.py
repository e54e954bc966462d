"""The methods of pretraining, one file each: VIE, and those that it is measured against."""

import torch

from pretrain.config import Config
from pretrain.corpus import Corpus
from pretrain.methods.method import Method
from pretrain.methods.vie import VIE
from vie import Stream

__all__ = ["Method", "create_method"]

METHODS = {"vie": VIE}


def create_method(config: Config, model: Stream, corpus: Corpus, device: torch.device) -> Method:
    """The method of a run.

    Args:
        config: Of the run, resolved.
        model: The stream to train, on its device.
        corpus: Its instances and their labels.
        device: Where the steps run.
    """
    return METHODS[config.method](config, model, corpus, device)
