"""A film in stretches of some seconds each, and frames of each stretch."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

from repshift.evaluation.data.video_file import VideoFile
from repshift.evaluation.data.videos import shown_frames, stack, upright

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from jaxtyping import UInt8
    from torch import Tensor


def read_stretches(
    path: Path, seconds: float, count: int = 1
) -> Iterator[tuple[float, UInt8[Tensor, "T 3 H W"]]]:
    """Of every ``seconds`` of a video, the middle frames of ``count`` equal parts, upright.

    Each stretch comes as soon as it is decoded, with the second at which its first frame is shown.
    What is left at the end counts if a part of it is half over; a video that is shorter is one
    stretch. ``VideoError`` where it cannot be used, after the stretches before.
    """
    video = VideoFile.inspect(path)
    part = min(seconds, video.lasts or seconds) / count
    taken = 0
    frames: list[Tensor] = []
    begins = 0.0
    last: tuple[float, Any] | None = None
    with closing(shown_frames(video)) as film:
        for time, frame in _timed(video, film):
            # The last frame before the middle of a part is its middle one, but for rounding.
            while time + 1e-6 >= (taken + 0.5) * part:
                second, middle = last or (time, frame)
                begins = begins if frames else second
                frames.append(upright(video, middle))
                taken += 1
                if len(frames) == count:
                    yield begins, stack(path, frames)
                    frames = []
            last = time, frame
    if last is not None and (frames or not taken):
        begins = begins if frames else last[0]
        frames += [upright(video, last[1])] * (count - len(frames))
        yield begins, stack(path, frames)


def _timed(video: VideoFile, film: Iterator[Any]) -> Iterator[tuple[float, Any]]:
    """Each frame with the second at which it is shown, counted from the first."""
    first: float | None = None
    for number, frame in enumerate(film):
        if not video.timed or frame.time is None:
            yield number / video.frames_a_second(), frame
            continue
        first = frame.time if first is None else first
        yield frame.time - first, frame
