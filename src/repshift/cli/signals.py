"""Ctrl-C and SIGTERM end a command in one line; a file that it was writing does not appear."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import FrameType

_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "ended by SIGTERM"}


class _Ended(KeyboardInterrupt):
    """What a signal raises, so that all that must be cleaned up is."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        self.number = number


@contextmanager
def ending_in_one_line() -> Generator[None]:
    """Handle both signals from here to the end of the process, unless they are ignored."""
    ended = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal ended
        if _importing(frame) or (ended and number == signal.SIGINT):
            # A library that is interrupted while it is imported makes of it what it likes.
            os.write(2, f"{_line(number)}\n".encode())
            os._exit(128 + number)
        if not ended:  # ``timeout`` sends its signal twice
            ended = True
            raise _Ended(number)

    mine = [one for one in _WORDS if signal.getsignal(one) != signal.SIG_IGN]
    for number in mine:
        signal.signal(number, end)
    try:
        yield
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, _Ended) else signal.SIGINT
        print(_line(number), file=sys.stderr)
        sys.exit(128 + number)
    finally:
        for number in mine:  # only the interpreter's own end is left, which writes nothing
            signal.signal(number, signal.SIG_DFL)


def _line(number: int) -> str:
    return f"repshift: {_WORDS[signal.Signals(number)]}; no file is half-written"


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False
