"""Frames are the very ones the rule names, and a file that cannot be used is named."""

import pickle
import sys
import types

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as torchvision

from repshift import InputError
from repshift.evaluation.data import videos
from repshift.evaluation.data.frames import middle_frames
from repshift.evaluation.data.pixels import normalise, resize
from repshift.evaluation.data.video_file import VideoError
from repshift.evaluation.data.videos import Sampling, decode_frames, decoder
from video_files import HEIGHT, WIDTH, numbers, picture, torchcodec_is, write_audio, write_video


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("h264.mp4", {}),
        ("b-frames.mp4", {"x264-params": "bframes=4:keyint=30:b-adapt=0"}),
        ("open-gop.mkv", {"x264-params": "bframes=3:open-gop=1:keyint=10"}),
        ("mpeg4.avi", {"codec": "mpeg4"}),
        ("b-frames.avi", {"codec": "mpeg4", "bf": "2"}),
        ("vp9.webm", {"codec": "libvpx-vp9"}),
        ("variable.mp4", {"times": np.cumsum([10, 90] * 20 + [400])}),
        ("h264-named.avi", {}),
    ],
)
@pytest.mark.parametrize("count", [4, 12])
def test_the_frames_are_those_of_the_rule(tmp_path, name, options, count):
    path = write_video(tmp_path / name, 41, **options)
    frames = decode_frames(path, count)
    assert (frames.dtype, frames.shape) == (torch.uint8, (count, 3, HEIGHT, WIDTH))
    assert numbers(frames) == middle_frames(41, count)


def test_a_short_video_repeats_its_last_frame(tmp_path):
    assert numbers(decode_frames(write_video(tmp_path / "one.mp4", 1), 4)) == [0, 0, 0, 0]
    assert numbers(decode_frames(write_video(tmp_path / "three.mp4", 3), 5)) == [0, 1, 2, 2, 2]


def test_colours_are_in_order_and_upright(tmp_path, monkeypatch):
    corners = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    corners[:24, :32], corners[:24, 32:], corners[24:, :32] = (200, 0, 0), (0, 200, 0), (0, 0, 200)
    monkeypatch.setattr("video_files.picture", lambda number, noise: corners)
    frame = decode_frames(write_video(tmp_path / "corners.mp4", 2), 1)[0]
    for y, x, colour in ((12, 16, (200, 0, 0)), (12, 48, (0, 200, 0)), (36, 16, (0, 0, 200))):
        assert (frame[:, y, x].int() - torch.tensor(colour)).abs().max() < 12


def test_only_the_first_seconds(tmp_path):
    path = write_video(tmp_path / "long.mp4", 100, rate=10)
    assert numbers(decode_frames(path, 4, first_seconds=3.0)) == middle_frames(30, 4)
    assert numbers(decode_frames(path, 4, first_seconds=10.0)) == middle_frames(100, 4)
    # Less than a frame long is still a frame.
    assert numbers(decode_frames(path, 2, first_seconds=0.01)) == [0, 0]
    # At the average rate: 100 frames in ten seconds, however they are spread.
    times = [50 * i for i in range(50)] + [2500 + 150 * i for i in range(50)]
    path = write_video(tmp_path / "variable.mp4", 100, times=times)
    # (The last frame's time on screen is not known, so that the rate may be a little higher.)
    chosen = numbers(decode_frames(path, 4, first_seconds=5.0))
    assert chosen in (middle_frames(50, 4), middle_frames(51, 4))


def test_a_file_that_ends_early_is_used_as_far_as_it_goes(tmp_path):
    content = write_video(tmp_path / "whole.mp4", 60, noise=40).read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(content[: len(content) // 2])
    shown = list(dict.fromkeys(numbers(decode_frames(path, 200))))  # all there are
    assert 20 < len(shown) < 40
    wanted = [shown[index] for index in middle_frames(len(shown), 4)]
    assert numbers(decode_frames(path, 4)) == wanted
    # The header still says sixty; the first seconds may lie beyond the cut.
    assert numbers(decode_frames(path, 4, first_seconds=2.0)) == wanted
    assert numbers(decode_frames(path, 4, first_seconds=0.4)) == middle_frames(10, 4)


def _corrupt(path):
    content = bytearray(write_video(path, 60, noise=40).read_bytes())
    third = len(content) // 3
    content[third : 2 * third] = bytes((7 * byte + 13) % 256 for byte in content[third : 2 * third])
    path.write_bytes(content)


def _cover(path):
    """A song with a picture: the picture is a video stream to FFmpeg."""
    with av.open(str(path), "w", format="mp4") as container:
        song = container.add_stream("aac", rate=44100)
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        silence = av.AudioFrame.from_ndarray(
            np.zeros((1, 4410), np.float32), format="fltp", layout="mono"
        )
        silence.rate, silence.pts = 44100, 0
        container.mux(song.encode(silence))
        container.mux(song.encode())
        container.mux(cover.encode(av.VideoFrame.from_ndarray(picture(7), format="rgb24")))
        container.mux(cover.encode())


def _no_index(path):
    path.write_bytes(write_video(path, 20).read_bytes()[:60])


UNUSABLE = {
    "missing.mp4": (lambda path: None, "is not a file"),
    "folder.mp4": (lambda path: path.mkdir(), "is not a file"),
    "zero.mp4": (lambda path: path.write_bytes(b""), "is empty (0 bytes)"),
    "text.mp4": (lambda path: path.write_text("hello\n" * 99), "cannot be read as a video"),
    "bytes.webm": (lambda path: path.write_bytes(bytes(9999)), "cannot be read as a video"),
    "text.txt": (lambda path: path.write_text("hello\n" * 99), "is a text, not a video"),
    "image.mp4": (lambda path: Image.new("RGB", (9, 9)).save(path, "png"), "is an image, not a"),
    "audio.mp4": (write_audio, "holds no video, only audio"),
    "song.m4a": (_cover, "holds no video, only audio"),
    "corrupt.mp4": (_corrupt, "is corrupt: it cannot be decoded after frame "),
    "header.mp4": (_no_index, "holds no video, only a header"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_cannot_be_used_is_named(tmp_path, name):
    make, reason = UNUSABLE[name]
    make(tmp_path / name)
    with pytest.raises(VideoError) as caught:
        decode_frames(tmp_path / name, 4)
    assert str(caught.value).startswith(f"{tmp_path / name} {reason}")
    copy = pickle.loads(pickle.dumps(caught.value))  # as it comes from a worker
    assert (type(copy), str(copy)) == (VideoError, str(caught.value))
    assert (copy.path, copy.reason) == (tmp_path / name, caught.value.reason)


def test_a_list_does_not_lead_to_another_video(tmp_path):
    write_video(tmp_path / "a.mp4", 4)
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile a.mp4\n")
    with pytest.raises(VideoError, match="is a text, not a video"):
        decode_frames(tmp_path / "list.mp4", 4)


def test_odd_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("http:a.mp4", "%03d [x] ünï.mp4", "no extension"):
        source = write_video(tmp_path / "plain.mp4", 4)
        path = source.rename(name)
        assert numbers(decode_frames(path, 4)) == [0, 1, 2, 3]


def test_without_pyav_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r"pip install repshift\[umt\]") as caught:
        decode_frames(tmp_path / "x.mp4", 4)
    assert not isinstance(caught.value, VideoError)  # no fault of the video's


def bicubic(image, size):
    """A slow resize, pixel by pixel: the oracle. Keys' kernel with a = -0.75, edges repeated."""

    def weight(x):
        x, a = abs(x), -0.75
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    def lines(values):
        scale = len(values) / size
        for target in range(size):
            centre = (target + 0.5) * scale - 0.5
            near = [int(np.floor(centre)) + step for step in (-1, 0, 1, 2)]
            yield sum(weight(centre - i) * values[min(max(i, 0), len(values) - 1)] for i in near)

    rows = np.stack(list(lines(image.astype(float))))
    columns = np.stack(list(lines(rows.swapaxes(0, 1)))).swapaxes(0, 1)
    return np.rint(columns.clip(0, 255)).astype(np.uint8)


@pytest.mark.parametrize("size", [5, 11, 30])
def test_resize_equals_its_definition(size):
    image = np.random.default_rng(0).integers(0, 256, (11, 17, 3), dtype=np.uint8)
    image[:5] //= 255  # black and barely not, so that some pixels fall below zero
    found = resize(torch.from_numpy(image).permute(2, 0, 1)[None], size)[0].permute(1, 2, 0)
    wanted = torch.from_numpy(bicubic(image, size))
    difference = (found.int() - wanted.int()).abs()
    assert difference.max() <= 1  # float32 may fall on the other side of a half
    assert (difference > 0).float().mean() < 0.01


@pytest.mark.parametrize("antialias", [False, True])
def test_resize_equals_torchvision_on_floats(antialias):
    """The path that torchvision 0.13 took for uint8; today's takes another for uint8 itself."""
    frames = torch.randint(0, 256, (3, 3, 90, 120), dtype=torch.uint8)
    wanted = torchvision.resize(
        frames.float(), [32, 32], InterpolationMode.BICUBIC, antialias=antialias
    )
    found = resize(frames, 32, antialias)
    assert torch.equal(found, wanted.clamp(0, 255).round().to(torch.uint8))
    assert not torch.equal(found, resize(frames, 32, not antialias))


def test_resize_does_not_depend_on_the_layout_in_memory_and_keeps_its_size():
    frames = torch.randint(0, 256, (2, 24, 24, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    assert torch.equal(resize(frames, 7), resize(frames.contiguous(), 7))
    assert torch.equal(resize(frames, 24), frames)


def test_normalise_equals_torchvision():
    frames = torch.randint(0, 256, (2, 3, 3, 8, 8), dtype=torch.uint8)
    wanted = torchvision.normalize(
        frames.float() / 255, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]
    )
    assert torch.equal(normalise(frames), wanted)


def test_sampling(tmp_path):
    path = write_video(tmp_path / "a.mp4", 41)
    clip = Sampling(frames=4, size=32).read(path)
    assert torch.equal(clip, resize(decode_frames(path, 4), 32))
    assert numbers(clip) == middle_frames(41, 4)
    for wrong in ({"frames": 0}, {"size": 0}, {"first_seconds": 0.0}):
        with pytest.raises(InputError, match="more"):
            Sampling(**wrong)


@pytest.fixture
def torchcodec(monkeypatch):
    """A stand-in for torchcodec, which numbers the frames it gives; it decodes nothing."""
    given = types.SimpleNamespace(frames=41, works=True, fails=False)

    class VideoDecoder:
        def __init__(self, source, stream_index=None, seek_mode="exact", num_ffmpeg_threads=1):
            if not given.works:
                raise RuntimeError("Could not load libtorchcodec")
            self.metadata = types.SimpleNamespace(num_frames=given.frames)

        def get_frames_at(self, indices):
            if given.fails:
                raise RuntimeError("Could not decode")
            data = torch.zeros(len(indices), 3, HEIGHT, WIDTH, dtype=torch.uint8)
            return types.SimpleNamespace(data=data)

    with torchcodec_is(VideoDecoder, monkeypatch):
        yield given


def test_torchcodec_decodes_where_it_works_and_pyav_what_it_cannot(tmp_path, torchcodec):
    path = write_video(tmp_path / "a.mp4", 41)
    assert decoder().startswith("torchcodec 0.0, PyAV ")
    assert not decode_frames(path, 4).any()
    torchcodec.fails = True
    assert numbers(decode_frames(path, 4)) == middle_frames(41, 4)
    torchcodec.fails, torchcodec.frames = False, 40  # counts otherwise
    assert numbers(decode_frames(path, 4)) == middle_frames(41, 4)


def test_torchcodec_without_ffmpeg_is_not_used(tmp_path, torchcodec):
    torchcodec.works = False
    assert decoder().startswith("PyAV ")
    torchcodec.works = True  # tried once
    path = write_video(tmp_path / "a.mp4", 41)
    assert numbers(decode_frames(path, 4)) == middle_frames(41, 4)


def test_the_real_torchcodec_gives_the_same_frames(tmp_path):
    pytest.importorskip("torchcodec")
    if not videos.torchcodec_version():
        pytest.skip("torchcodec finds no FFmpeg")
    path = write_video(tmp_path / "a.mp4", 41, **{"x264-params": "bframes=4"})
    assert numbers(decode_frames(path, 12)) == middle_frames(41, 12)
