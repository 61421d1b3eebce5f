"""Clips of many videos, decoded by other processes while the model works."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset

from repshift.errors import InputError
from repshift.evaluation.data.frame_cache import FrameCache
from repshift.evaluation.data.video_file import VideoError
from repshift.evaluation.data.videos import Sampling
from repshift.evaluation.data.workers import WorkerError, from_workers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import UInt8
    from torch import Tensor

_AHEAD = 2  # clips that a worker holds ready; memory does not grow beyond them


@dataclass
class Clips:
    """The clips of ``paths``, in order, as pairs of index and clip.

    ``workers`` processes decode, one thread each, at most two clips ahead of what was taken; with 0
    this process does. They are not forked from this process, which may have threads and a GPU, so
    that a script that iterates must be safe to import (``if __name__ == "__main__"``).

    In the place of a clip stands the ``VideoError`` of a video that cannot be used, so that the
    others go on. A worker that dies is a ``RuntimeError``. The random state of this process is left
    alone.
    """

    paths: Sequence[Path]
    sampling: Sampling = field(default_factory=Sampling)
    cache: FrameCache | None = None
    workers: int = 2

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise InputError(f"workers is {self.workers}; expected 0 (none) or more")

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[tuple[int, UInt8[Tensor, "T 3 S S"] | VideoError]]:
        files = _Files(self.paths, self.sampling, self.cache)
        workers = min(self.workers, len(self))
        if not workers:
            for index in range(len(self)):
                yield index, _usable(files[index])
            return
        index = 0
        try:
            for index, given in enumerate(from_workers(files, workers, _AHEAD, __name__)):
                clip = _usable(given)
                # A copy: shared memory is scarce in containers, and each piece holds a file open.
                yield index, clip if isinstance(clip, VideoError) else clip.clone()
                index += 1  # the next is awaited
        except WorkerError as error:
            raise RuntimeError(
                f"a process that decodes videos died while it read {self.paths[index]} or one "
                f"of the {workers * _AHEAD - 1} after it: {error}"
            ) from None


def _usable(clip: Tensor | InputError) -> Tensor | VideoError:
    """The clip, or what is wrong with its video; any other error (a full disk) is raised."""
    if isinstance(clip, InputError) and not isinstance(clip, VideoError):
        raise clip
    return clip


@dataclass
class _Files(Dataset[Any]):
    """What a worker does. An error is a result, not an exception: the others go on."""

    paths: Sequence[Path]
    sampling: Sampling
    cache: FrameCache | None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor | InputError:
        path = self.paths[index]
        try:
            return self.cache.read(path, self.sampling) if self.cache else self.sampling.read(path)
        except InputError as error:
            return error
