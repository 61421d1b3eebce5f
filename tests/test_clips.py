"""Clips come in order from several processes, and no video and no process is lost in silence."""

import multiprocessing
import os
import signal
import time

import pytest
import torch

from repshift import InputError
from repshift.data import clips
from repshift.data.clips import Clips, Skipped
from repshift.data.frame_cache import FrameCache
from repshift.data.videos import Sampling, VideoError
from video_files import write_audio, write_video

CLIP = Sampling(frames=2, size=16)


@pytest.fixture
def paths(tmp_path):
    """Twelve videos of different lengths; the third holds sound alone, the last is missing."""
    good = [write_video(tmp_path / f"{n}.mp4", 3 + 5 * n) for n in range(10)]
    sound = write_audio(tmp_path / "sound.mp4")
    return [*good[:2], sound, *good[2:], tmp_path / "missing.mp4"]


def children():
    """The processes that are still there, once those that end have had the time to."""
    for _ in range(100):
        if not (alive := multiprocessing.active_children()):
            return []
        time.sleep(0.05)
    return alive


@pytest.mark.parametrize("workers", [0, 2])
def test_clips_come_in_order_and_skipped_ones_are_known(paths, tmp_path, workers):
    cache = FrameCache(tmp_path / "cache")
    source = Clips(paths, CLIP, cache, workers=workers, on_error="skip")
    before = torch.get_rng_state()
    found = list(source)
    assert torch.equal(torch.get_rng_state(), before)
    assert [index for index, _ in found] == [0, 1, *range(3, 11)]
    for index, clip in found:
        assert not clip.is_shared()
        assert torch.equal(clip, CLIP.read(paths[index]))
        assert cache.file(paths[index], CLIP).is_file()
    assert [(entry.index, entry.path) for entry in source.skipped] == [
        (2, paths[2]), (11, paths[11])
    ]  # fmt: skip
    assert source.skipped[0] == Skipped(2, paths[2], "holds no video, only audio")
    assert not children()


def test_skipped_starts_empty_with_each_iteration(paths):
    source = Clips(paths, CLIP, workers=0, on_error="skip")
    assert len(list(source)) == len(list(source)) == len(source) - 2
    assert len(source.skipped) == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_results_leave_nothing_out(paths, workers):
    found = list(Clips(paths, CLIP, workers=workers).results())
    assert [index for index, _ in found] == list(range(len(paths)))
    errors = {index: str(clip) for index, clip in found if isinstance(clip, VideoError)}
    assert errors == {
        2: f"{paths[2]} holds no video, only audio",
        11: f"{paths[11]} is not a file",
    }
    assert list(Clips([], CLIP, workers=workers)) == []


def test_the_first_unusable_video_stops_and_ends_the_workers(paths):
    found = []
    with pytest.raises(VideoError, match="sound.mp4 holds no video, only audio"):
        found.extend(index for index, _ in Clips(paths, CLIP, workers=1))
    with pytest.raises(VideoError, match="sound.mp4 holds no video, only audio"):
        list(Clips(paths, CLIP, workers=0))
    assert not children()


def test_a_worker_that_is_killed_is_an_error_and_the_others_end(paths):
    source = iter(Clips(paths[3:] * 4, CLIP, workers=2, on_error="skip"))
    next(source)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"died while it read .*\.mp4 or one of the 3 after"):
        list(source)
    assert not children()


def test_stopping_early_ends_the_workers(paths):
    for _ in Clips(paths, CLIP, workers=1):
        assert multiprocessing.active_children()
        break
    assert not children()


def test_other_errors_are_no_skipped_videos(paths, monkeypatch):
    def broken(self, index):
        raise RuntimeError("a fault of the program")

    monkeypatch.setattr(clips._Files, "__getitem__", broken)
    with pytest.raises(RuntimeError, match="a fault of the program"):
        list(Clips(paths, CLIP, workers=0, on_error="skip"))


def test_a_cache_that_cannot_be_written_is_not_skipped(paths, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        list(Clips(paths, CLIP, FrameCache(tmp_path / "file"), workers=0, on_error="skip"))


def test_what_cannot_be_asked(tmp_path, unchecked):
    with pytest.raises(InputError, match="none of the 2 videos can be used; the first: .*x.mp4 is"):
        list(Clips([tmp_path / "x.mp4"] * 2, CLIP, workers=0, on_error="skip"))
    with pytest.raises(InputError, match="workers is -1"):
        Clips([tmp_path], workers=-1)
    with pytest.raises(InputError, match="on_error is 'ignore'; expected skip or stop"):
        Clips([tmp_path], on_error="ignore")
