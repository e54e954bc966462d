"""Batches of offline data and of an agent's own."""

from rl_encoders.replay.buffer import Batch, Replay, joined


def draw_mixed(offline: Replay | None, online: Replay | None, count: int, mix: float, seed: tuple[int, ...]) -> Batch:
    """Transitions of both.

    Args:
        offline: The offline data, if any.
        online: The agent's own, if any.
        count: B.
        mix: Share of the offline data, ``int(B * mix)`` as Cal-QL rounds it; -1 is its share in both together.
        seed: Tells the draw.

    Raises:
        VieError: Both are empty.
    """
    if offline is None or not len(offline):
        assert online is not None
        return online.draw(count, (*seed, 1))
    if online is None or not len(online):
        return offline.draw(count, (*seed, 0))
    share = len(offline) / (len(offline) + len(online)) if mix < 0 else mix
    of_data = int(count * share)
    if of_data in (0, count):
        return (online if of_data == 0 else offline).draw(count, (*seed, int(of_data == 0)))
    return joined(offline.draw(of_data, (*seed, 0)), online.draw(count - of_data, (*seed, 1)))
