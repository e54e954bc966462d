"""Video files of every kind that a large corpus turns out to hold, good, odd and bad, written by PyAV or by hand."""

import io
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from tests.videos import cut, cut_after_packet, pictures, write_sound

ROOT = Path(__file__).parents[2]
FRAMES, HEIGHT, WIDTH = 30, 64, 80

Write = Callable[[Path], object]
Change = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Kind:
    """One kind of file, and what must become of it.

    Attributes:
        name: What it is, in words.
        file: Name of the file; the decoder of the tests hangs or crashes where it says so.
        write: Writes it.
        reason: Of a file that is refused: a pattern of its reason. Of one that is used: empty.
        frames: Of a file that is used: how many.
        shows: What its frames show, as a change of ``pictures(frames, HEIGHT, WIDTH)``; None where that is not told.
        size: Of its frames, height and width.
        psnr: How close they come, in dB.
    """

    name: str
    file: str
    write: Write
    reason: str = ""
    frames: int = FRAMES
    shows: Change | None = lambda clip: clip
    size: tuple[int, int] = (HEIGHT, WIDTH)
    psnr: float = 30.0


def encode(
    path: Path,
    clip: np.ndarray,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    pts: Sequence[int] | None = None,
    container: dict[str, str] | None = None,
    **options: str,
) -> Path:
    """Writes frames (T, H, W, 3) at 25 fps; ``pts`` are their times in milliseconds, evenly spread where left out."""
    if path.suffix == ".mp4":
        container = {"movflags": "+faststart"} | (container or {})
    quality = {"crf": "12", "g": "12"} if codec == "libx264" else {}
    with av.open(str(path), "w", options=container or {}) as output:
        stream = output.add_stream(codec, rate=25, options=quality | options)
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.codec_context.thread_count = (
            1  # with more the bytes differ from time to time, and so does what damage does
        )
        if not quality:
            stream.bit_rate = 4_000_000
        if pts is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, picture in enumerate(clip):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if pts is not None:
                frame.pts, frame.time_base = pts[number], Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def healthy(path: Path, **options: str) -> Path:
    return encode(path, pictures(FRAMES, HEIGHT, WIDTH), **options)


def encoded(codec: str, pix_fmt: str = "yuv420p", **options: str) -> Write:
    return lambda path: healthy(path, codec=codec, pix_fmt=pix_fmt, **options)


def encoded_elsewhere(codec: str, **options: str) -> Write:
    """In a process of its own: as root, SVT-AV1 gives the process that it is called in real-time priority for ever.

    All that this one starts would have it too, and on few cores nothing else would run any more.
    """
    code = f"from tests.faults.bad_videos import encoded; encoded({codec!r}, **{options!r})(Path(sys.argv[1]))"
    command = [sys.executable, "-c", f"import sys; from pathlib import Path; {code}"]
    return lambda path: subprocess.run([*command, str(path)], cwd=ROOT, check=True, capture_output=True)


def sized(height: int, width: int, frames: int = FRAMES, codec: str = "libx264", pix_fmt: str = "yuv420p") -> Write:
    return lambda path: encode(path, pictures(frames, height, width), codec, pix_fmt)


def changed(change: Callable[[bytearray], object], **options: str) -> Write:
    """A healthy file whose bytes are changed."""

    def write(path: Path) -> None:
        data = bytearray(healthy(path, **options).read_bytes())
        change(data)
        path.write_bytes(data)

    return write


def overwritten(box: bytes, offset: int, content: bytes, **options: str) -> Write:
    """A healthy file with bytes overwritten behind the name of its first such box."""

    def change(data: bytearray) -> None:
        place = data.index(box) + len(box) + offset
        data[place : place + len(content)] = content

    return changed(change, **options)


def turned(*matrix: int) -> Write:
    """An mp4 whose header asks for a rotation; a whole is 65536."""
    return overwritten(b"tkhd", 40, struct.pack(">9i", *(65536 * part for part in matrix), 0, 0, 2**30))


def without_header(data: bytearray) -> None:
    place = data.index(b"moov")
    (length,) = struct.unpack_from(">I", data, place - 4)
    data[place + 4 : place + length - 4] = bytes(length - 8)


def without_packets(data: bytearray) -> None:
    del data[data.index(b"mdat") :]


def without_middle(data: bytearray) -> None:
    place = data.index(b"mdat")
    first, last = (place + (len(data) - place) * share // 10 for share in (3, 7))
    data[first:last] = bytes(last - first)


def scrambled(data: bytearray) -> None:
    place = data.index(b"mdat")
    first, last = (place + (len(data) - place) * share // 10 for share in (3, 7))
    data[first:last] = np.random.default_rng(0).bytes(last - first)


def flipped(data: bytearray) -> None:
    """Flips bits here and there; in pixels as they are nobody can tell."""
    rng = np.random.default_rng(0)
    for place in rng.integers(data.index(b"movi") + 100, len(data) - 2000, 12):
        data[place] ^= 1 << int(rng.integers(8))


def share(part: float, suffix: str = ".mp4") -> Write:
    def write(path: Path) -> None:
        whole = healthy(path.with_name(f".{path.name}{suffix}"))
        cut(whole, path, part)
        whole.unlink()

    return write


def cut_in_a_packet(path: Path) -> None:
    # B-frames hide how many frames a packet is worth.
    whole = healthy(path.with_name(f".{path.name}"), bf="0")
    cut_after_packet(whole, path, 12)
    whole.unlink()


def picture(path: Path) -> None:
    Image.fromarray(pictures(1, HEIGHT, WIDTH)[0]).save(path, "JPEG")


def archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("video.mp4", bytes(5000))


def huge_picture(path: Path) -> None:
    data = io.BytesIO()
    Image.new("P", (4, 4)).save(data, "GIF")
    head = bytearray(data.getvalue())
    head[6:10] = struct.pack("<HH", 65535, 65535)
    path.write_bytes(head)


def cover(path: Path) -> None:
    """Sound with a picture of its sleeve, which is a video stream of one frame."""
    sleeve, silence = io.BytesIO(), av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
    Image.fromarray(pictures(1, HEIGHT, WIDTH)[0]).save(sleeve, "JPEG")
    silence.rate = 44100
    with av.open(str(path), "w") as output:
        sound, video = output.add_stream("aac", rate=44100), output.add_stream("mjpeg", rate=1)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        video.disposition = av.stream.Disposition.attached_pic
        packet = av.Packet(sleeve.getvalue())
        packet.stream, packet.pts, packet.dts = video, 0, 0
        output.mux(packet)
        for number in range(40):
            silence.pts = 1024 * number
            output.mux(sound.encode(silence))
        output.mux(sound.encode())


def size_changes(path: Path) -> None:
    """Two recordings one after another, the second of them smaller."""
    clip, parts = pictures(FRAMES, HEIGHT, WIDTH), []
    for number, frames in enumerate((clip[:15], clip[15:, ::2, ::2])):
        part = encode(path.with_name(f".{number}.ts"), np.ascontiguousarray(frames), bf="0")
        parts.append(part.read_bytes())
        part.unlink()
    path.write_bytes(b"".join(parts))


def uneven(first: int = 0) -> Write:
    """Frames at irregular times, the first of them after so many milliseconds."""
    steps = np.random.default_rng(0).integers(5, 300, FRAMES)
    return lambda path: encode(path, pictures(FRAMES, HEIGHT, WIDTH), pts=(first + np.cumsum(steps)).tolist())


def live(path: Path) -> None:
    """A playlist without an end, which players ask for again and again."""
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.2,\n{HEALTHY}\n")


def grey(clip: np.ndarray) -> np.ndarray:
    luma = clip @ np.array([0.299, 0.587, 0.114])
    return np.repeat(luma[..., None], 3, axis=-1)


def quarter_turn(clip: np.ndarray) -> np.ndarray:
    return np.rot90(clip, 3, (1, 2))


def half_turn(clip: np.ndarray) -> np.ndarray:
    return np.rot90(clip, 2, (1, 2))


HEALTHY = "healthy.mp4"
NO_VIDEO = "^not a video file, or cut before its header"
GONE = "^no such file$"
NOT_A_FILE = "^a folder, a pipe or a device, not a file$"


def short_of(frames: str, announced: int = FRAMES) -> str:
    return f"^truncated or damaged: {frames} of {announced} frames can be decoded$"


KINDS = [
    Kind("healthy", HEALTHY, healthy),
    # Cut off.
    Kind("cut at 2 %", "cut02.mp4", share(0.02), "^no video stream$|" + NO_VIDEO),
    Kind("cut at 10 %", "cut10.mp4", share(0.1), short_of("0")),
    Kind("cut at 50 %", "cut50.mp4", share(0.5), short_of(r"1\d")),
    Kind("cut at 90 %", "cut90.mp4", share(0.9), short_of(r"2\d")),
    Kind("cut at 99 %: the last frame is lost", "cut99.mp4", share(0.99), frames=FRAMES - 1),
    Kind("cut within packet 13", "packet.mp4", cut_in_a_packet, short_of("12")),
    Kind("Matroska cut at 2 %", "cut02.mkv", share(0.02, ".mkv"), NO_VIDEO),
    Kind("Matroska cut at 50 %", "cut50.mkv", share(0.5, ".mkv"), short_of(r"1\d")),
    Kind("no bytes", "empty.mp4", Path.touch, r"^the file is empty \(0 bytes\)$"),
    Kind("header without packets", "header.mp4", changed(without_packets), short_of("0")),
    # Damaged.
    Kind("header overwritten with zeros", "zeroed.mp4", changed(without_header), "^no video stream$"),
    Kind("packets in the middle overwritten with zeros", "middle.mp4", changed(without_middle), short_of(r"\d+")),
    Kind("packets in the middle overwritten at random", "scrambled.mp4", changed(scrambled), short_of(r"\d+")),
    Kind("bits flipped in raw pixels: not seen", "flipped.avi", changed(flipped, codec="rawvideo")),
    Kind("nothing but zeros", "zeros.mp4", lambda path: path.write_bytes(bytes(10**5)), NO_VIDEO),
    Kind("random bytes", "random.mp4", lambda path: path.write_bytes(np.random.default_rng(0).bytes(10**4)), NO_VIDEO),
    # Not videos.
    Kind("text renamed", "text.mp4", lambda path: path.write_text("this is no video\n" * 100), NO_VIDEO),
    Kind("web page of an error", "page.mp4", lambda path: path.write_text("<html>404 Not Found</html>"), NO_VIDEO),
    Kind("picture renamed", "picture.mp4", picture, "^too short: 1 frames"),
    Kind("zip renamed", "archive.mp4", archive, NO_VIDEO),
    Kind("playlist without an end", "playlist.mp4", live, NO_VIDEO),
    Kind("sound only", "sound.mp4", write_sound, "^no video stream$"),
    Kind("sound with a cover picture", "cover.mp4", cover, "^too short: 1 frames"),
    # Wrong about themselves.
    Kind("one frame", "one.mp4", sized(HEIGHT, WIDTH, 1), "^too short: 1 frames"),
    Kind("two frames", "two.mp4", sized(HEIGHT, WIDTH, 2), "^too short: 2 frames"),
    Kind("three frames", "three.mp4", sized(HEIGHT, WIDTH, 3), frames=3),
    Kind(
        "announces 300 frames (AVI)",
        "frames.avi",
        overwritten(b"strh", 36, struct.pack("<I", 300), codec="mpeg4"),
        short_of("30", 300),
    ),
    Kind(
        "announces 300 frames (mp4): its other tables are believed",
        "frames.mp4",
        overwritten(b"stsz", 8, struct.pack(">I", 300)),
    ),
    Kind("announces 2^31 - 1 frames", "endless.mp4", overwritten(b"stsz", 8, struct.pack(">I", 2**31 - 1)), NO_VIDEO),
    Kind(
        "announces ten times its duration (mp4): its frames are counted",
        "long.mp4",
        overwritten(b"mdhd", 16, struct.pack(">I", 10 * 15360)),
    ),
    Kind(
        "announces ten times its duration (Matroska)",
        "long.mkv",
        overwritten(b"\x44\x89\x88", 0, struct.pack(">d", 12_000)),
        short_of("30", 300),
    ),
    Kind(
        "announces 65535 x 65535 pixels; its packets know better",
        "claims.mp4",
        overwritten(b"avc1", 24, struct.pack(">HH", 65535, 65535)),
    ),
    Kind("65535 x 65535 pixels", "huge.gif", huge_picture, short_of("0", 1)),
    # Odd, but videos.
    Kind("2 x 2 pixels", "tiny.mp4", sized(2, 2, 6), frames=6, size=(2, 2)),
    Kind("1 x 1 pixel", "pixel.mkv", sized(1, 1, 6, "ffv1", "bgr0"), frames=6, size=(1, 1)),
    Kind("16 x 4096 pixels", "wide.mp4", sized(16, 4096, 6), frames=6, size=(16, 4096)),
    Kind("4096 x 16 pixels", "high.mp4", sized(4096, 16, 6), frames=6, size=(4096, 16)),
    Kind("variable frame rate (mp4)", "uneven.mp4", uneven()),
    Kind("variable frame rate (Matroska)", "uneven.mkv", uneven()),
    Kind("begins at ten seconds (Matroska)", "late.mkv", uneven(10_000)),
    Kind(
        "an hour between two frames",
        "gap.mkv",
        lambda path: encode(path, pictures(FRAMES, HEIGHT, WIDTH), pts=[*range(0, 1160, 40), 3_600_000]),
    ),
    Kind(
        "turned by 90 degrees: comes out upright",
        "turned90.mp4",
        turned(0, 1, 0, -1, 0, 0),
        shows=quarter_turn,
        size=(WIDTH, HEIGHT),
    ),
    Kind("turned by 180 degrees: comes out upright", "turned180.mp4", turned(-1, 0, 0, 0, -1, 0), shows=half_turn),
    Kind("the size changes on the way: keeps the first", "sizes.ts", size_changes, psnr=24),
    Kind("yuv444p", "yuv444p.mp4", encoded("libx264", "yuv444p")),
    Kind("yuv422p", "yuv422p.mp4", encoded("libx264", "yuv422p")),
    Kind("yuv420p10le", "yuv420p10le.mp4", encoded("libx264", "yuv420p10le")),
    Kind("grey", "grey.mp4", encoded("libx264", "gray"), shows=grey, psnr=25),
    Kind("yuvj420p (full range)", "yuvj420p.mp4", encoded("libx264", "yuvj420p")),
    Kind("transparent PNG in QuickTime", "rgba.mov", encoded("png", "rgba")),
    Kind(
        "H.264, B-frames and open groups of pictures",
        "open.mp4",
        encoded("libx264", **{"x264-params": "open-gop=1:bframes=3:b-adapt=0"}),
    ),
    Kind("H.264, interlaced", "interlaced.mp4", encoded("libx264", **{"x264-params": "interlaced=1"})),
    Kind(
        "H.264 in fragments",
        "fragments.mp4",
        lambda path: healthy(path, container={"movflags": "frag_keyframe+empty_moov"}),
    ),
    Kind("H.264 in MPEG-TS", "transport.ts", healthy),
    Kind("H.264 in M2TS", "camera.m2ts", healthy),
    Kind("MPEG-2 in an MPEG program stream", "program.mpg", encoded("mpeg2video")),
    Kind("MPEG-4 in AVI", "mpeg4.avi", encoded("mpeg4")),
    Kind("Motion JPEG in AVI", "mjpeg.avi", encoded("mjpeg", "yuvj420p")),
    Kind("VP9 in WebM", "vp9.webm", encoded("libvpx-vp9")),
    Kind("AV1", "av1.mp4", encoded_elsewhere("libsvtav1", preset="12")),
    Kind("Huffyuv in AVI", "huffyuv.avi", encoded("huffyuv", "yuv422p")),
    Kind("FFV1 in Matroska", "ffv1.mkv", encoded("ffv1")),
    Kind("WMV 2", "wmv2.wmv", encoded("wmv2")),
    Kind("GIF", "picture.gif", encoded("gif", "rgb8"), psnr=24),
    # Odd names and what is no plain file.
    Kind("name beyond ASCII", "видео 動画 🎬.mp4", healthy),
    Kind("name with a newline, a quote and commas", 'a\n"b", c,.mp4', healthy),
    Kind("bad file whose name holds a newline, a quote and commas", 'd\n"e", f,.mp4', Path.touch, "^the file is empty"),
    Kind("bad file whose name holds a carriage return", "g\rh.mp4", Path.touch, "^the file is empty"),
    Kind("name of 255 bytes", "n" * 251 + ".mp4", healthy),
    Kind("name of 300 bytes", "m" * 296 + ".mp4", lambda path: None, "File name too long"),
    Kind("no such file", "missing.mp4", lambda path: None, GONE),
    Kind("link to a video", "link.mp4", lambda path: path.symlink_to(HEALTHY)),
    Kind("link to itself", "loop.mp4", lambda path: path.symlink_to(path.name), GONE),
    Kind("link to nothing", "dangling.mp4", lambda path: path.symlink_to("nothing.mp4"), GONE),
    Kind("named pipe", "pipe.mp4", os.mkfifo, NOT_A_FILE),
    Kind("link to a device without an end", "device.mp4", lambda path: path.symlink_to("/dev/zero"), NOT_A_FILE),
    Kind("folder", "folder.mp4", Path.mkdir, NOT_A_FILE),
    # The decoder's own faults.
    Kind("the decoder never returns", "hang.mp4", healthy, "^no result after 8 seconds"),
    Kind("the decoder crashes", "crash.mp4", healthy, r"^the decoder crashed \(SIGSEGV\)$"),
    Kind("the decoder ends its process", "exit.mp4", healthy, r"^the decoder crashed \(exit status 7\)$"),
]
