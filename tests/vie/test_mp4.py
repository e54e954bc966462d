from fractions import Fraction

import av
import numpy as np
import pytest

from tests.videos import pictures
from vie.video.mp4 import write_mp4


def test_it_holds_the_frames_at_their_rate(tmp_path):
    frames = pictures(7, 64, 96)
    write_mp4(tmp_path / "any name", frames, 12.5)
    with av.open(str(tmp_path / "any name")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == Fraction(25, 2)
        shown = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    assert shown.shape == frames.shape
    assert np.abs(shown.astype(int) - frames).mean() < 6


@pytest.mark.parametrize("alone", [True, False])
def test_every_frame_stands_alone_if_asked_for(alone, tmp_path):
    write_mp4(tmp_path / "x.mp4", pictures(12, 32, 32), 10, key_frames_only=alone)
    with av.open(str(tmp_path / "x.mp4")) as container:
        keys = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
    assert len(keys) == 12
    assert all(keys) == alone


def test_where_nothing_can_be_written(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        write_mp4(tmp_path / "absent" / "x.mp4", pictures(2, 32, 32), 10)
