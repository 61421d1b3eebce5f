"""Processes that read for this one, which works meanwhile, and end with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing import forkserver
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from repshift.evaluation.data.signals import ctrl_c_ignored, signals_held

if TYPE_CHECKING:
    from collections.abc import Generator
    from multiprocessing.context import BaseContext

    from torch.utils.data import Dataset


class WorkerError(RuntimeError):
    """A worker is gone, with what it was reading."""


def from_workers(
    dataset: Dataset[Any], workers: int, ahead: int, preload: str, in_order: bool = True
) -> Generator[Any, None, None]:
    """What ``dataset`` gives, read by ``workers`` processes of one thread each.

    Each is at most ``ahead`` results ahead of what was taken. They are not forked from this
    process, which may have threads and a GPU, but from a clean one that has imported ``preload``.
    """
    data = DataLoader(
        dataset, batch_size=None, num_workers=workers, prefetch_factor=ahead,
        multiprocessing_context=_context(preload), worker_init_fn=_start, collate_fn=_as_it_is,
        generator=torch.Generator(), in_order=in_order,
    )  # fmt: skip
    with signals_held():  # a loader that is half made cannot end its processes
        loader = iter(data)
    while True:
        try:
            yield next(loader)
        except StopIteration:
            return
        except (RuntimeError, EOFError, OSError) as error:
            if not _died(error):
                raise
            # The loader ends its other processes when nothing holds it, nor a traceback.
            del loader
            error.__traceback__ = None
            raise WorkerError(str(error) or type(error).__name__) from None


def _died(error: Exception) -> bool:
    """Whether a worker is gone, not a fault of what it ran, which the loader raises anew."""
    if isinstance(error, RuntimeError):
        return "DataLoader worker (pid" in str(error)
    # The memory of a tensor is fetched from its worker, which no longer answers.
    return "in DataLoader worker process" not in str(error)


def _context(preload: str) -> BaseContext:
    """Processes forked from a clean one that has imported what they need: the import takes long."""
    if "forkserver" not in multiprocessing.get_all_start_methods():  # Windows
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
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
    """End where the process that takes what this reads was killed.

    PyTorch's own watch looks at the process that forked this one, which lives as long as this.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _as_it_is(given: Any) -> Any:
    return given
