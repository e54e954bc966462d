"""The two-pathway hybrid of two saved encoders."""

import os
from pathlib import Path

import vie
from vie import VieError


def join_encoders(
    static: str | os.PathLike[str], dynamic: str | os.PathLike[str], out: Path, fast: bool = False
) -> Path:
    """Makes the two-pathway hybrid of a static and a dynamic encoder, and saves it; nothing is trained.

    Args:
        static: Folder or hub id of a saved ``vie_single_r18``.
        dynamic: Folder or hub id of a saved dynamic encoder of the same width, trained on as many pixels.
        out: Folder of the hybrid. Its clip is the dynamic encoder's; its card tells the training of both, and that its
            embedding is untrained.
        fast: Of a ``vie_slowfast_r18``, whether the pooled feature holds the fast pathway's 64 channels too, which the
            authors' leaves out.

    Returns:
        ``out``.

    Raises:
        VieError: The two are no such pair, there is no fast pathway, or ``out`` is one of their folders.
    """
    if out.resolve() in (Path(static).resolve(), Path(dynamic).resolve()):
        raise VieError(f"{out} holds an encoder to be joined: give another folder for the hybrid")
    still, moving = vie.load(static), vie.load(dynamic)
    crops = [(encoder.sampling.size, encoder.sampling.short_side) for encoder in (still, moving)]
    if crops[0] != crops[1]:
        (size, side), (other_size, other_side) = crops
        raise VieError(
            f"{static} was trained on {size} pixels (short side {side:.3g} times that) and {dynamic} on {other_size} "
            f"({other_side:.3g}): train one of them again with data.size and data.short_side of the other"
        )
    parts = {"static": still.card.get("training") or {}, "dynamic": moving.card.get("training") or {}}
    shared = {key: parts["dynamic"][key] for key in ("seed", "corpus", "split") if key in parts["dynamic"]}
    training = {"stage": "joined", "embedding": "untrained", **shared, **parts}
    hybrid = vie.join_streams(still.model, moving.model, fast)
    vie.save_pretrained(hybrid, out, moving.sampling, {"training": training, "licence": moving.card.get("licence")})
    return out
