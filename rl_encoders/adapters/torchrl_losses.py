"""TorchRL's losses: they keep a network's weights beside it, one set for each critic and target, all looked after here.

``SACLoss`` and its kin draw the weights of several critics anew, as they make them of one network; pretrained ones are
lost. Call ``reload`` once the loss is made, or give a list of networks in place of one, where the loss takes it.
"""

import copy
from collections.abc import Iterator

from tensordict import TensorDictBase
from tensordict.nn import TensorDictParams
from torch import nn
from torchrl.objectives import LossModule

from rl_encoders.encoder import VisualEncoder
from vie import VieError

TRAINED = "trunk.weights."


def encoders(module: nn.Module) -> list[VisualEncoder]:
    """All encoders of an environment, a network or a loss.

    Of a loss, one for each set of weights: of actors, of every critic, of their targets. They share these weights, and
    change as the loss is trained; they serve to look, and are no part of it.

    Raises:
        VieError: A schedule has unfrozen stages since the loss was made.
    """
    sets = list(_sets(module))
    # A loss's value estimator lists the network that the loss itself runs with other weights.
    run = {id(encoder) for encoder, _ in sets}
    found = [part for part in module.modules() if isinstance(part, VisualEncoder) and id(part) not in run]
    return found + [_having(encoder, weights) for encoder, weights in sets]


def verify(module: nn.Module, as_loaded: bool = False) -> None:
    """``VisualEncoder.verify`` for every encoder of an environment, a network or a loss.

    Args:
        module: Of TorchRL.
        as_loaded: What is trained has to be as it was loaded, too: after construction, before the first update.

    Raises:
        VieError: There is none, or TorchRL has done to it what it should not.
    """
    found = encoders(module)
    if not found:
        raise VieError(f"the {type(module).__name__} has no encoder: give it an EncodeTransform, or an encoder_module")
    for encoder in found:
        encoder.verify()
        try:
            if as_loaded:
                encoder.verify(as_loaded=True)
        except VieError as error:
            raise VieError(
                f"{error}; TorchRL's losses draw several critics of one network anew: call reload(loss)"
            ) from error


def reload(loss: LossModule) -> None:
    """Puts back the trunks' weights that a loss has drawn anew: all critics, and targets, begin with the network's own.

    What is learned on top of the trunks stays drawn anew, so that critics differ. To be called before the first update.

    Args:
        loss: Made just now.
    """
    for encoder, weights in _sets(loss):
        live = dict(_having(encoder, weights).named_parameters())
        for name, parameter in encoder.named_parameters():
            if name.startswith(TRAINED):
                live[name].data.copy_(parameter.data)


def _sets(module: nn.Module) -> Iterator[tuple[VisualEncoder, TensorDictBase]]:
    """Encoders of the networks of losses, and weights for them, once for every set of these."""
    for loss in [part for part in module.modules() if isinstance(part, LossModule)]:
        # Losses put networks where no module lists them.
        for name, network in vars(loss).items():
            for kept in (f"{name}_params", f"target_{name}_params"):
                if isinstance(network, nn.Module) and isinstance(params := loss._modules.get(kept), TensorDictParams):
                    yield from _of_network(network, params)


def _of_network(network: nn.Module, params: TensorDictParams) -> Iterator[tuple[VisualEncoder, TensorDictBase]]:
    for path, encoder in network.named_modules():
        if isinstance(encoder, VisualEncoder):
            weights = params.get(tuple(path.split("."))) if path else params
            yield from ((encoder, one) for one in ([weights] if not weights.batch_size else weights.data.unbind(0)))


def _having(encoder: VisualEncoder, weights: TensorDictBase) -> VisualEncoder:
    """A copy of an encoder that shares other weights."""
    made = copy.deepcopy(encoder)
    kept = weights.flatten_keys(".")
    if set(kept.keys()) != {name for name, _ in [*made.named_parameters(), *made.named_buffers()]}:
        raise VieError("stages were unfrozen since the loss was made, which trains others: make the loss anew")
    for name, tensor in kept.items():
        path, _, leaf = name.rpartition(".")
        owner = made.get_submodule(path)
        if leaf in owner._buffers:
            owner._buffers[leaf] = tensor.data
        else:
            owner._parameters[leaf] = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor.data)
    return made
