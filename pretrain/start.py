"""What a training begins from: the whole trunk of another network."""

import logging

from vie import Stream, VieError, load_matching
from vie.weights import Match, list_names, read_state_dict

logger = logging.getLogger(__name__)


def begin_from(model: Stream, source: str, prefix: str = "", within: str = "") -> Match:
    """Copies the trunk of finished weights into a stream, and its heads as far as they fit.

    Args:
        model: The stream.
        source: A saved encoder or a file of weights, as ``read_state_dict`` takes it.
        prefix: Put before the names of the weights.
        within: Taken off them first, as ``load_matching`` does.

    Returns:
        What became of every tensor, for the record of the run; it is logged too.

    Raises:
        VieError: The weights cannot be read, or do not fill the trunk.
    """
    weights = read_state_dict(source)
    try:
        match = load_matching(model, weights, prefix, within)
    except VieError as error:
        raise VieError(
            f"{source}: {error}; model.start_within is taken off their names, and model.start_prefix put before them"
        ) from error
    heads = tuple(f"{name}." for name in model.heads)
    # PyTorch's first batch norms counted no batches, and nothing but a cumulative average asks for their number.
    unfilled = [
        name
        for name in (*match.missing, *match.misshapen)
        if not name.startswith(heads) and not name.endswith(".num_batches_tracked")
    ]
    if unfilled:
        raise VieError(
            f"{source} does not fill the trunk of {model.model_name}: {list_names(unfilled)} are missing or misshapen "
            f"({match}): give weights of the same network and width, or model.start_prefix and "
            "model.start_within"
        )
    logger.warning("the training begins from %s: %s", source, match)
    return match
