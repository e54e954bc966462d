import os
import subprocess
import sys

import av
import numpy as np
import pytest
import torch

from tests.videos import cut_after_packet, write_sound, write_video
from vie.errors import VieError
from vie.video.source import open_video, require_decoder

try:
    require_decoder("torchcodec")
    NO_TORCHCODEC = None
except VieError as error:
    NO_TORCHCODEC = str(error)
torchcodec = pytest.param("torchcodec", marks=pytest.mark.skipif(NO_TORCHCODEC is not None, reason=str(NO_TORCHCODEC)))
both = pytest.mark.parametrize("decoder", ["decord", torchcodec])


def by_pyav(path):
    with av.open(str(path)) as container:
        return torch.stack([torch.from_numpy(f.to_ndarray(format="rgb24")) for f in container.decode(video=0)])


@both
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_frames_are_those_of_a_sequential_decode(tmp_path, decoder, name):
    path = write_video(tmp_path / name, frames=40, fps=30)
    source = open_video(path, decoder)
    assert (len(source), source.height, source.width) == (40, 96, 128)
    assert source.fps == pytest.approx(30, rel=1e-3)  # Matroska rounds times to milliseconds
    frames = source.get_batch(range(40))
    assert frames.dtype == torch.uint8
    assert torch.equal(frames, by_pyav(path))


@both
def test_any_order_and_repeats(tmp_path, decoder):
    path = write_video(tmp_path / "a.mp4", frames=40, gop=250)
    wanted = [39, 0, 7, 7, 38, 0, 12]
    assert torch.equal(open_video(path, decoder).get_batch(np.array(wanted)), by_pyav(path)[wanted])


@pytest.mark.skipif(NO_TORCHCODEC is not None, reason=str(NO_TORCHCODEC))
@pytest.mark.parametrize("width", [32, 48, 96, 144, 62, 128])  # at the first four decord mistakes padding for pixels
def test_decoders_agree_at_every_width(tmp_path, width):
    path = write_video(tmp_path / "a.mp4", frames=12, height=64, width=width)
    batches = [open_video(path, decoder).get_batch([11, 3, 3]) for decoder in ("decord", "torchcodec")]
    assert batches[0].shape == (3, 64, width, 3)
    assert torch.equal(*batches)


@both
def test_a_frame_number_out_of_range_is_named(tmp_path, decoder):
    source = open_video(write_video(tmp_path / "a.mp4", frames=5), decoder)
    for wrong in ([0, 5], [-1], []):
        with pytest.raises(VieError, match=r"a\.mp4.*frame"):
            source.get_batch(wrong)


@both
def test_bad_files_are_named_with_their_cause(tmp_path, decoder):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("this is no video\n" * 100)
    write_sound(tmp_path / "sound.mp4")
    for name in ("empty.mp4", "text.mp4", "sound.mp4", "missing.mp4"):
        with pytest.raises(VieError, match=name) as caught:
            open_video(tmp_path / name, decoder)
        assert "\n" not in str(caught.value)


@both
def test_a_file_that_promises_more_than_it_holds_ends_with_an_error(tmp_path, decoder):
    whole = write_video(tmp_path / "whole.mp4", frames=60)
    cut_after_packet(whole, tmp_path / "cut.mp4", 30)

    def read_all() -> None:  # decord reads ahead, and may meet the end as early as at opening
        source = open_video(tmp_path / "cut.mp4", decoder)
        source.get_batch(range(len(source)))

    with pytest.raises(VieError, match=r"cut\.mp4"):
        read_all()


def test_an_unknown_decoder_is_refused(tmp_path):
    with pytest.raises(VieError, match="'decord' or 'torchcodec'"):
        open_video(write_video(tmp_path / "a.mp4", frames=3), "opencv")


def test_a_missing_torchcodec_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(VieError, match=r"pip install 'vie\[torchcodec\]'"):
        open_video(write_video(tmp_path / "a.mp4", frames=3), "torchcodec")


def test_a_decord_reader_refuses_to_work_in_a_forked_child(tmp_path):
    source = open_video(write_video(tmp_path / "a.mp4", frames=5), "decord")
    child = os.fork()
    if child == 0:
        try:
            source.get_batch([0])
        except VieError as error:
            os._exit(0 if "before a fork" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_importing_the_module_loads_no_decoder():
    code = "import sys, vie.video.source; print(sorted({'decord', 'torchcodec', 'av'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
