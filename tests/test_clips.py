"""Clips come in order from several processes, and no video and no process is lost in silence."""

import multiprocessing
import os
import signal
import time

import pytest
import torch

from repshift import InputError
from repshift.evaluation.data import clips, workers
from repshift.evaluation.data.clips import Clips
from repshift.evaluation.data.frame_cache import FrameCache
from repshift.evaluation.data.video_file import VideoError
from repshift.evaluation.data.videos import Sampling
from video_files import write_audio, write_video

CLIP = Sampling(frames=2, size=16)


@pytest.fixture
def paths(tmp_path):
    """Twelve videos of different lengths; the third holds sound alone, the last is missing."""
    good = [write_video(tmp_path / f"{n}.mp4", 3 + 5 * n) for n in range(10)]
    sound = write_audio(tmp_path / "sound.mp4")
    return [*good[:2], sound, *good[2:], tmp_path / "missing.mp4"]


def children():
    """The processes that are still there, once those that end have had the time to.

    One that is ended while it starts still imports the package first: seconds on a slow disk.
    """
    for _ in range(600):
        if not (alive := multiprocessing.active_children()):
            return []
        time.sleep(0.05)
    return alive


@pytest.mark.parametrize("workers", [0, 2])
def test_clips_come_in_order_and_errors_in_their_places(paths, tmp_path, workers):
    cache = FrameCache(tmp_path / "cache")
    before = torch.get_rng_state()
    found = list(Clips(paths, CLIP, cache, workers=workers))
    assert torch.equal(torch.get_rng_state(), before)
    assert [index for index, _ in found] == list(range(len(paths)))
    errors = {index: str(clip) for index, clip in found if isinstance(clip, VideoError)}
    assert errors == {
        2: f"{paths[2]} holds no video, only audio",
        11: f"{paths[11]} cannot be read: No such file or directory",
    }
    for index, clip in found:
        if index not in errors:
            assert not clip.is_shared()
            assert torch.equal(clip, CLIP.read(paths[index]))
            assert cache.file(paths[index], CLIP).is_file()
    assert not children()
    assert list(Clips([], CLIP, workers=workers)) == []


def test_a_worker_that_is_killed_is_an_error_and_the_others_end(paths):
    source = iter(Clips(paths[3:] * 4, CLIP, workers=2))
    next(source)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"died while it read .*\.mp4 or one of the 3 after"):
        list(source)
    assert not children()


@pytest.mark.parametrize("error", [EOFError(), ConnectionResetError(104, "reset")])
def test_a_clip_that_a_dead_worker_keeps_is_the_same_error(paths, monkeypatch, error):
    def dropped(self):
        raise error

    monkeypatch.setattr(
        torch.utils.data.dataloader._MultiProcessingDataLoaderIter, "_get_data", dropped
    )
    with pytest.raises(RuntimeError, match=r"died while it read .*0\.mp4 or one of the 1 after"):
        next(iter(Clips(paths, CLIP, workers=1)))


def test_a_fault_in_a_worker_is_no_death():
    assert not workers._died(OSError("Caught OSError in DataLoader worker process 0.\nTraceback"))


def test_stopping_early_ends_the_workers(paths):
    for _ in Clips(paths, CLIP, workers=1):
        assert multiprocessing.active_children()
        break
    assert not children()


def test_other_errors_are_no_unusable_videos(paths, monkeypatch):
    def broken(self, index):
        raise RuntimeError("a fault of the program")

    monkeypatch.setattr(clips._Files, "__getitem__", broken)
    with pytest.raises(RuntimeError, match="a fault of the program"):
        list(Clips(paths, CLIP, workers=0))


def test_a_cache_that_cannot_be_written_is_not_skipped(paths, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        list(Clips(paths, CLIP, FrameCache(tmp_path / "file"), workers=0))


def test_what_cannot_be_asked(tmp_path, unchecked):
    with pytest.raises(InputError, match="workers is -1"):
        Clips([tmp_path], workers=-1)
