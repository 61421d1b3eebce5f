"""What the user or the machine got wrong is said in one line."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from repshift.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Generator

# What PyTorch says when it is asked for more memory than there is, or than can be counted.
_NO_MEMORY = ("can't allocate memory", "out of memory", "Storage size calculation overflowed")


@contextmanager
def failures_in_one_line() -> Generator[None]:
    """Exit with status 2 and one line where input, memory, disk or terminal does not do."""
    if hasattr(sys.stdout, "reconfigure"):  # a terminal may lack a letter of a file's name
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
        sys.stdout.flush()
    except InputError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        if error.name != "tyro":
            raise
        _fail("the command line needs more than the core; install it with: pip install '.[bench]'")
    except OSError as error:
        if error.errno is None:  # no refusal of the system
            raise
        _drop_output()
        if isinstance(error, BrokenPipeError):  # who read the output has seen enough
            sys.exit(1)
        place = f": {error.filename}" if error.filename else ""
        _fail(f"{error.strerror}{place}")
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if not isinstance(error, MemoryError) and not any(one in text for one in _NO_MEMORY):
            raise
        reason = (text.splitlines() or ["no memory left"])[0]
        _fail(f"the memory does not suffice; pass a smaller --batch-size, if it has one ({reason})")


def _fail(reason: str) -> NoReturn:
    print("repshift:", " ".join(reason.splitlines()), file=sys.stderr)
    sys.exit(2)


def _drop_output() -> None:
    """Let the interpreter's own end not try in vain once more to write what is left."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
