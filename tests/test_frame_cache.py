"""A clip from the disk is the clip of the video, whatever happened to either."""

import os
import shutil
import threading

import pytest
import torch

from repshift import InputError
from repshift.evaluation.data import frame_cache, videos
from repshift.evaluation.data.frame_cache import FrameCache
from repshift.evaluation.data.video_file import VideoError
from repshift.evaluation.data.videos import Sampling
from video_files import write_video

CLIP = Sampling(frames=4, size=16)


@pytest.fixture
def video(tmp_path):
    return write_video(tmp_path / "a.mp4", 20)


@pytest.fixture
def cache(tmp_path):
    return FrameCache(tmp_path / "cache")


@pytest.fixture
def decoded(monkeypatch):
    """The videos that were decoded."""
    seen = []
    decode = videos.decode_frames

    def counted(path, *settings):
        seen.append(path)
        return decode(path, *settings)

    monkeypatch.setattr(videos, "decode_frames", counted)
    return seen


def test_a_video_is_decoded_once_under_whatever_name(tmp_path, video, cache, decoded):
    clip = cache.read(video, CLIP)
    copy = shutil.copy(video, tmp_path / "b.avi")
    os.utime(copy, (0, 0))
    assert torch.equal(cache.read(video, CLIP), clip)
    assert torch.equal(cache.read(copy, CLIP), clip)
    assert decoded == [video]
    assert torch.equal(clip, CLIP.read(video))


def test_another_content_at_the_same_name_size_and_time_is_another_clip(
    tmp_path, video, cache, decoded
):
    first = cache.read(video, CLIP)
    before = video.stat()
    content = bytearray(video.read_bytes())
    # The comment x264 leaves in the stream: another byte there, and every frame is the same.
    content[content.index(b"x264") + 3] ^= 1
    video.write_bytes(content)
    os.utime(video, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert video.stat().st_size == before.st_size
    assert torch.equal(cache.read(video, CLIP), first)
    assert decoded == [video, video]


@pytest.mark.parametrize(
    "other",
    [
        Sampling(frames=5, size=16),
        Sampling(frames=4, size=17),
        Sampling(frames=4, size=16, first_seconds=0.4),
        Sampling(frames=4, size=16, antialias=True),
    ],
)
def test_every_setting_makes_another_clip(video, cache, other):
    cache.read(video, CLIP)
    assert cache.file(video, other) != cache.file(video, CLIP)
    assert torch.equal(cache.read(video, other), other.read(video))


def test_every_version_makes_another_clip(video, cache, monkeypatch):
    files = {cache.file(video, CLIP)}
    monkeypatch.setattr(frame_cache, "decoder", lambda: "another")
    files.add(cache.file(video, CLIP))
    monkeypatch.setattr(frame_cache, "CLIP_FORMAT", 0)
    files.add(cache.file(video, CLIP))
    monkeypatch.setattr(torch, "__version__", "9.9")
    files.add(cache.file(video, CLIP))
    assert len(files) == 4


def _flip(file):
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        _flip,
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:-9]),
        lambda file: file.write_bytes(b"not a clip"),
        lambda file: frame_cache._save(file, torch.zeros(3, 3, 16, 16, dtype=torch.uint8)),
        lambda file: file.unlink(),
    ],
    ids=["flipped", "empty", "cut", "text", "other shape", "gone"],
)
def test_a_damaged_clip_is_decoded_anew_and_mended(video, cache, decoded, damage):
    clip = cache.read(video, CLIP)
    damage(cache.file(video, CLIP))
    assert torch.equal(cache.read(video, CLIP), clip)
    assert len(decoded) == 2
    assert torch.equal(cache.read(video, CLIP), clip)
    assert len(decoded) == 2


def test_many_writers_at_once(video, cache):
    clips = []
    threads = [
        threading.Thread(target=lambda: clips.append(cache.read(video, CLIP))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(clips) == 8
    assert all(torch.equal(clip, clips[0]) for clip in clips)
    files = [path for path in cache.directory.rglob("*") if path.is_file()]
    assert files == [cache.file(video, CLIP)]  # and no temporary one is left


def test_nothing_is_kept_of_a_video_that_cannot_be_used(tmp_path, cache):
    (tmp_path / "bad.mp4").write_text("hello")
    for path in (tmp_path / "bad.mp4", tmp_path / "missing.mp4"):
        with pytest.raises(VideoError):
            cache.read(path, CLIP)
    assert not cache.directory.exists()


def test_a_directory_that_cannot_be_written_is_no_fault_of_the_video(tmp_path, video):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write") as caught:
        FrameCache(tmp_path / "file").read(video, CLIP)
    assert not isinstance(caught.value, VideoError)
