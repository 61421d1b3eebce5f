"""Signals while processes are started: in the main thread, which alone may say what they do."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


@contextmanager
def ctrl_c_ignored() -> Generator[None]:
    """Processes that are started inside leave Ctrl-C to this one, from their first moment."""
    with _handled({signal.SIGINT: signal.SIG_IGN}):
        yield


@contextmanager
def signals_held() -> Generator[None]:
    """Ctrl-C and SIGTERM do what they do once the block has ended."""
    held: list[int] = []

    def hold(number: int, _: object) -> None:
        held.append(number)

    with _handled({signal.SIGINT: hold, signal.SIGTERM: hold}):
        yield
    for number in held:
        signal.raise_signal(number)


@contextmanager
def _handled(handlers: dict[signal.Signals, Callable[[int, Any], None] | Any]) -> Generator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None was set by other than Python, which cannot set it again
                signal.signal(number, handler)
