"""Clips of many videos, decoded by other processes while the model works."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset

from repshift.errors import InputError
from repshift.evaluation.data.frame_cache import FrameCache
from repshift.evaluation.data.signals import ctrl_c_ignored, signals_held
from repshift.evaluation.data.video_file import VideoError
from repshift.evaluation.data.videos import Sampling

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.context import BaseContext

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
        data = DataLoader(
            files, batch_size=None, num_workers=workers, prefetch_factor=_AHEAD,
            multiprocessing_context=_context(), worker_init_fn=_start, collate_fn=_as_it_is,
            generator=torch.Generator(),
        )  # fmt: skip
        with signals_held():  # a loader that is half made cannot end its processes
            loader = iter(data)
        for index in range(len(self)):
            try:
                clip = next(loader)
            except (RuntimeError, EOFError, OSError) as error:
                if not _died(error):
                    raise
                # The loader ends its other processes when nothing holds it, nor a traceback.
                del loader
                error.__traceback__ = None
                raise RuntimeError(
                    f"a process that decodes videos died while it read {self.paths[index]} or one "
                    f"of the {workers * _AHEAD - 1} after it: {str(error) or type(error).__name__}"
                ) from None
            clip = _usable(clip)
            # A copy: shared memory is scarce in containers, and each piece holds a file open.
            yield index, clip if isinstance(clip, VideoError) else clip.clone()


def _usable(clip: Tensor | InputError) -> Tensor | VideoError:
    """The clip, or what is wrong with its video; any other error (a full disk) is raised."""
    if isinstance(clip, InputError) and not isinstance(clip, VideoError):
        raise clip
    return clip


def _died(error: Exception) -> bool:
    """Whether a worker is gone, not a fault of what it ran, which the loader raises anew."""
    if isinstance(error, RuntimeError):
        return "DataLoader worker (pid" in str(error)
    # The memory of a clip is fetched from its worker, which no longer answers.
    return "in DataLoader worker process" not in str(error)


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


def _context() -> BaseContext:
    """Processes forked from a clean one that has imported what they need: the import takes long."""
    if "forkserver" not in multiprocessing.get_all_start_methods():  # Windows
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ctrl_c_ignored():
        forkserver.ensure_running()
    # Wait until that is done with a process which, unlike a worker, starts without its parent too:
    # after Ctrl-C in these seconds there is nobody who could print a traceback.
    first = context.Process(target=int)
    first.start()
    first.join()
    return context


def _start(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is this process's parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End where the process that takes the clips was killed.

    PyTorch's own watch looks at the process that forked this one, which lives as long as this.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _as_it_is(clip: Any) -> Any:
    return clip
