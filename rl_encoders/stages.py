"""The stages of a stream in order, for freezing from below and for learning rates that grow with depth."""

from vie import Stream, VieError


def stages(stream: Stream) -> list[tuple[str, list[str]]]:
    """The names of a stream's parameters and buffers, stage by stage from its input to its output.

    The stages are conv1 to conv5 of VIE's, PyTorchVideo's and torchvision's video streams; of other networks the stem
    (with a ViT's tokens and positions) and then stage1, stage2 and so on: the stages of a convolutional or hierarchical
    network, the blocks of a ViT, a last norm or pooling head with the last of them. All is in one stage, "trunk", where
    a stream does not say what it is made of.

    Nothing in a stage is needed by an earlier one: frozen from the first stage up to any, no gradient reaches into the
    frozen part.

    Args:
        stream: Any stream.

    Returns:
        (Name of the stage, names as in ``named_parameters`` and ``named_buffers``), each name once; those of the
        stream's embedding head (``stream.heads``) are left out, as are the second names of shared tensors.

    Raises:
        VieError: The stream's own account of its stages leaves out a tensor, or has a stage without any.
    """
    told = stream.stages()
    place = {place: number for number, (_, places) in enumerate(told) for place in places}
    found: list[tuple[str, list[str]]] = [(name, []) for name, _ in told]
    for name in [*dict(stream.named_parameters()), *dict(stream.named_buffers())]:
        if name.partition(".")[0] in stream.heads:
            continue
        longest = next((at for at in _up(name) if at in place), None)
        if longest is None:
            raise VieError(f"{name} of {_called(stream)} is in no stage: add it to what its stages() returns")
        found[place[longest]][1].append(name)
    for name, tensors in found:
        if not tensors:
            raise VieError(f"stage {name!r} of {_called(stream)} holds no tensor: leave it out of stages()")
    return found


def _up(name: str) -> list[str]:
    """A tensor's name, those of the modules around it from the inside, and that of the stream, which is empty."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(len(parts), -1, -1)]


def _called(stream: Stream) -> str:
    return stream.model_name or type(stream).__name__
