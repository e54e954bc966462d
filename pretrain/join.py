"""The two-pathway hybrid of two saved encoders."""

import os
from pathlib import Path

import vie
from vie import VieError


def join_encoders(static: str | os.PathLike[str], dynamic: str | os.PathLike[str], out: Path) -> Path:
    """Makes the two-pathway hybrid of a static and a dynamic encoder, and saves it; nothing is trained.

    Args:
        static: Folder or hub id of a saved ``vie_single_r18``.
        dynamic: Folder or hub id of a saved dynamic encoder of the same width, trained on as many pixels.
        out: Folder of the hybrid. Its clip is the dynamic encoder's; its card tells the training of both.

    Returns:
        ``out``.

    Raises:
        VieError: The two are no such pair.
    """
    still, moving = vie.load(static), vie.load(dynamic)
    sizes = [encoder.sampling.size for encoder in (still, moving)]
    if sizes[0] != sizes[1]:
        raise VieError(
            f"{static} was trained on {sizes[0]} pixels and {dynamic} on {sizes[1]}: "
            "train one of them again with data.size of the other"
        )
    training = {**moving.card.get("training", {}), "static": still.card.get("training")}
    hybrid = vie.join_streams(still.model, moving.model)
    vie.save_pretrained(hybrid, out, moving.sampling, {"training": training, "licence": moving.card.get("licence")})
    return out
