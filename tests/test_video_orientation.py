"""Videos are seen as they are shown: upright, the film and not its thumbnail, in its colours."""

import struct
import types

import av
import numpy as np
import pytest
import torch

from repshift import InputError
from repshift.evaluation.data import videos
from repshift.evaluation.data.orientation import Orientation
from repshift.evaluation.data.video_file import VideoError
from repshift.evaluation.data.videos import decode_frames, decoder
from video_files import HEIGHT, WIDTH, numbers, picture, torchcodec_is, write_video

ONE = 1 << 16
CORNERS = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
CORNERS[:24, :32], CORNERS[:24, 32:], CORNERS[24:, :32] = (200, 0, 0), (0, 200, 0), (0, 0, 200)

# What a file's matrix (a, b, c, d) says of the frames it stores, by hand.
SHOWN = {
    "stored": ((ONE, 0, 0, ONE), lambda frame: frame),
    "90": ((0, -ONE, ONE, 0), lambda frame: np.rot90(frame, 1)),
    "180": ((-ONE, 0, 0, -ONE), lambda frame: np.rot90(frame, 2)),
    "270": ((0, ONE, -ONE, 0), lambda frame: np.rot90(frame, 3)),
    "mirrored": ((-ONE, 0, 0, ONE), np.fliplr),
    "upside down": ((ONE, 0, 0, -ONE), np.flipud),
    "transposed": ((0, ONE, ONE, 0), lambda frame: frame.swapaxes(0, 1)),
    "transversed": ((0, -ONE, -ONE, 0), lambda frame: np.rot90(frame, 2).swapaxes(0, 1)),
    "twice as large": ((0, 2 * ONE, -2 * ONE, 0), lambda frame: np.rot90(frame, 3)),
    "half a degree off": ((572, ONE, -ONE, 572), lambda frame: np.rot90(frame, 3)),
    "nothing": ((0, 0, 0, 0), lambda frame: frame),
}


def turn(path, matrix):
    """Write the matrix where an MP4 file keeps that of its track."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 44
    a, b, c, d = matrix
    content[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


@pytest.fixture
def corners(tmp_path, monkeypatch):
    """A video whose frames show where up is, and left."""
    monkeypatch.setattr("video_files.picture", lambda number, noise: CORNERS)
    return write_video(tmp_path / "corners.mp4", 4)


def close(frames, wanted):
    wanted = torch.from_numpy(wanted.copy()).permute(2, 0, 1)
    assert frames.shape[1:] == wanted.shape
    # All but the edges between the colours, which a video blurs.
    return all(((f.int() - wanted.int()).abs() < 12).float().mean() > 0.9 for f in frames)


@pytest.mark.parametrize("name", SHOWN)
def test_frames_are_upright(corners, name):
    matrix, shown = SHOWN[name]
    assert close(decode_frames(turn(corners, matrix), 3), shown(CORNERS))


@pytest.mark.parametrize("name", SHOWN)
def test_the_matrix_of_ffmpeg_turns_as_ffmpeg_says(name):
    """By its definition: where does a stored pixel come to lie?"""
    matrix, shown = SHOWN[name]
    data = struct.pack("=9i", *matrix[:2], 0, *matrix[2:], 0, 0, 0, 1 << 30)
    frame = torch.arange(6).reshape(2, 3, 1).expand(2, 3, 3).to(torch.uint8)
    found = Orientation.of_matrix(data).upright(frame)
    assert np.array_equal(found.numpy(), shown(frame.numpy()))


def test_a_slanted_video_is_refused(corners):
    turn(corners, (46341, 46341, -46341, 46341))  # by 45 degrees
    with pytest.raises(VideoError, match=r"corners.mp4 is turned by no right angle: .* 46341, 463"):
        decode_frames(corners, 2)


@pytest.fixture
def torchcodec(monkeypatch):
    """A stand-in for torchcodec that gives black frames; ``asked``: of which streams."""
    asked = []

    class VideoDecoder:
        def __init__(self, source, stream_index=None, seek_mode="exact", num_ffmpeg_threads=1):
            asked.append(stream_index)
            self.metadata = types.SimpleNamespace(num_frames=4)

        def get_frames_at(self, indices):
            data = torch.zeros(len(indices), 3, HEIGHT, WIDTH, dtype=torch.uint8)
            return types.SimpleNamespace(data=data)

    with torchcodec_is(VideoDecoder, monkeypatch):
        yield asked


def test_what_torchcodec_might_not_turn_or_mirror_is_left_to_pyav(corners, torchcodec):
    assert not decode_frames(corners, 3).any()
    for matrix, shown in SHOWN.values():
        if (upright := shown(CORNERS)) is not CORNERS:
            assert close(decode_frames(turn(corners, matrix), 3), upright)
    assert torchcodec == [None, 0]  # the trial, and the file that is not turned


@pytest.mark.parametrize("name", SHOWN)
def test_the_real_torchcodec_gives_the_same_upright_frames(corners, name, monkeypatch):
    pytest.importorskip("torchcodec")
    if not videos.torchcodec_version():
        pytest.skip("torchcodec finds no FFmpeg")
    path = turn(corners, SHOWN[name][0])
    found = decode_frames(path, 3)
    monkeypatch.setattr(videos, "torchcodec_version", lambda: None)
    assert (found.int() - decode_frames(path, 3).int()).abs().max() <= 1


DISPOSITION = av.stream.Disposition


def with_thumbnail(path, still="mjpeg", disposition=0, count=4, stills=1):
    """A film of numbered frames after a larger still, a stream of its own."""
    with av.open(str(path), "w") as container:
        thumbnail = container.add_stream(still, rate=25)
        thumbnail.width, thumbnail.height = 4 * WIDTH, 4 * HEIGHT
        thumbnail.pix_fmt = "yuvj420p" if still == "mjpeg" else "yuv420p"
        thumbnail.disposition = disposition
        film = container.add_stream("libx264", rate=25)
        film.width, film.height, film.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        pixels = np.random.default_rng(0).integers(0, 256, (4 * HEIGHT, 4 * WIDTH, 3), np.uint8)
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        for _ in range(stills):
            container.mux(thumbnail.encode(frame))
        container.mux(thumbnail.encode())
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            container.mux(film.encode(frame))
        container.mux(film.encode())
    return path


@pytest.mark.parametrize(
    ("name", "still", "disposition"),
    [
        ("plain.mp4", "mjpeg", 0),
        ("plain.mkv", "mjpeg", 0),
        ("h264.mp4", "libx264", 0),
        ("default.mkv", "libx264", DISPOSITION.default),
        ("default.mov", "mjpeg", DISPOSITION.default),
        ("still.mp4", "mjpeg", DISPOSITION.still_image),
        ("attached.mp4", "mjpeg", DISPOSITION.attached_pic),
    ],
)
def test_a_still_before_the_film_is_not_the_film(tmp_path, name, still, disposition):
    path = with_thumbnail(tmp_path / name, still, disposition)
    frames = decode_frames(path, 4)
    assert frames.shape == (4, 3, HEIGHT, WIDTH)
    assert numbers(frames) == [0, 1, 2, 3]


def test_of_two_films_it_is_the_one_that_ffmpeg_takes(tmp_path):
    first = with_thumbnail(tmp_path / "first.mkv", "libx264", DISPOSITION.default, stills=9)
    assert decode_frames(first, 4).shape == (4, 3, 4 * HEIGHT, 4 * WIDTH)
    other = with_thumbnail(tmp_path / "other.mkv", "libx264", DISPOSITION.dub, count=9, stills=4)
    with av.open(str(other)) as container:
        best = container.streams.best("video")
    assert decode_frames(other, 4).shape[2] == best.codec_context.height


def test_torchcodec_is_asked_for_the_same_stream(tmp_path, torchcodec):
    assert not decode_frames(with_thumbnail(tmp_path / "a.mkv"), 4).any()
    assert torchcodec == [None, 1]


def test_a_video_of_one_frame_is_one_where_there_is_no_other(tmp_path):
    path = with_thumbnail(tmp_path / "a.mkv", count=1)
    assert len(decode_frames(path, 2)) == 2


@pytest.mark.parametrize("codec", ["libx264", "libvpx-vp9"])
@pytest.mark.parametrize(
    ("matrix", "full", "red"),
    [(6, False, (254, 0, 0)), (1, False, (255, 24, 0)), (6, True, (238, 14, 13))],
)
def test_colours_are_read_by_what_the_file_says_of_them(tmp_path, codec, matrix, full, red):
    """Y, Cb, Cr of (81, 90, 240) in BT.601 and BT.709, in the limited range and the full one."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"crf": "0", "lossless": "1"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.color_range = 2 if full else 1
        stream.codec_context.colorspace = matrix
        for _ in range(2):
            frame = av.VideoFrame(WIDTH, HEIGHT, "yuv420p")
            for plane, value in zip(frame.planes, (81, 90, 240), strict=True):
                plane.update(bytes([value]) * plane.buffer_size)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    found = decode_frames(path, 1)[0, :, HEIGHT // 2, WIDTH // 2].tolist()
    assert np.abs(np.subtract(found, red)).max() <= 1


def test_an_old_pyav_is_refused_since_it_takes_every_video_for_bt601(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", 2)
    monkeypatch.setattr(av, "__version__", "16.1.0")
    for ask in (decoder, lambda: decode_frames(path, 2)):
        with pytest.raises(InputError, match="version 16.1.0, which gives wrong colours; .* 17"):
            ask()


def test_torchcodec_is_not_asked_where_a_file_keeps_no_times(tmp_path, torchcodec):
    path = write_video(tmp_path / "a.avi", 4, codec="mpeg4", bf="2")
    assert numbers(decode_frames(path, 4)) == [0, 1, 2, 3]
    assert torchcodec == [None]
