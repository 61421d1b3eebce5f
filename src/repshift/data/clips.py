"""Clips of many videos, decoded by other processes while the model works."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.utils.data import DataLoader, Dataset

from repshift.data.frame_cache import FrameCache
from repshift.data.videos import Sampling, VideoError
from repshift.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.context import BaseContext

    from jaxtyping import UInt8
    from torch import Tensor

_AHEAD = 2  # clips that a worker holds ready; memory does not grow beyond them


@dataclass(frozen=True)
class Skipped:
    """A video that was left out, and what is wrong with it."""

    index: int
    path: Path
    reason: str


@dataclass
class Clips:
    """The clips of ``paths``, in order, as pairs of index and clip.

    ``workers`` processes decode, one thread each, at most two clips ahead of what was taken; with 0
    this process does. They are not forked from this process, which may have threads and a GPU, so
    that a script that iterates must be safe to import (``if __name__ == "__main__"``).

    ``on_error`` says what a video that cannot be used does: "stop" raises its ``VideoError``,
    "skip" leaves it out and adds it to ``skipped``, which starts empty with each iteration; then
    it is an ``InputError`` at the end if no video was left. A worker that dies is a
    ``RuntimeError``. The random state of this process is left alone.
    """

    paths: Sequence[Path]
    sampling: Sampling = field(default_factory=Sampling)
    cache: FrameCache | None = None
    workers: int = 2
    on_error: Literal["skip", "stop"] = "stop"
    skipped: list[Skipped] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise InputError(f"workers is {self.workers}; expected 0 (none) or more")
        if self.on_error not in ("skip", "stop"):
            raise InputError(f"on_error is {self.on_error!r}; expected skip or stop")

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[tuple[int, UInt8[Tensor, "T 3 S S"]]]:
        self.skipped.clear()
        for index, clip in self.results():
            if not isinstance(clip, VideoError):
                yield index, clip
            elif self.on_error == "stop":
                raise clip
            else:
                self.skipped.append(Skipped(index, clip.path, clip.reason))
        if self.skipped and len(self.skipped) == len(self):
            first = self.skipped[0]
            raise InputError(f"none of the {len(self)} videos can be used; the first: "
                             f"{first.path} {first.reason}")  # fmt: skip

    def results(self) -> Iterator[tuple[int, UInt8[Tensor, "T 3 S S"] | VideoError]]:
        """Every index, with its clip or with what is wrong; ``on_error`` is the caller's to do."""
        files = _Files(self.paths, self.sampling, self.cache)
        workers = min(self.workers, len(self))
        if not workers:
            yield from ((index, files[index]) for index in range(len(self)))
            return
        loader = iter(
            DataLoader(
                files, batch_size=None, num_workers=workers, prefetch_factor=_AHEAD,
                multiprocessing_context=_context(), worker_init_fn=_start, collate_fn=_as_it_is,
                generator=torch.Generator(),
            )
        )  # fmt: skip
        for index in range(len(self)):
            try:
                clip = next(loader)
            except RuntimeError as error:
                if "DataLoader worker (pid" not in str(error):
                    raise
                raise RuntimeError(
                    f"a process that decodes videos died while it read {self.paths[index]} or one "
                    f"of the {workers * _AHEAD - 1} after it: {error}"
                ) from None
            # A copy: shared memory is scarce in containers, and each piece holds a file open.
            yield index, clip if isinstance(clip, VideoError) else clip.clone()


@dataclass
class _Files(Dataset[Any]):
    """What a worker does. An unusable video is a result, not an exception: the others go on."""

    paths: Sequence[Path]
    sampling: Sampling
    cache: FrameCache | None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor | VideoError:
        path = self.paths[index]
        try:
            return self.cache.read(path, self.sampling) if self.cache else self.sampling.read(path)
        except VideoError as error:
            return error


def _context() -> BaseContext:
    """Processes forked from a clean one that has imported what they need: the import takes long."""
    if "forkserver" not in multiprocessing.get_all_start_methods():  # Windows
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _start(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is this process's parent's to handle


def _as_it_is(clip: Any) -> Any:
    return clip
