"""Ctrl-C while ``repshift`` or ``python -m repshift`` imports torch, which takes seconds.

Imported before all else. Nothing was written yet, so that the command just ends, without the
traceback of whatever library was being imported. In every other process nothing is changed.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from itertools import pairwise


def is_command() -> bool:
    """Whether this process is the command; Python calls it ``-m`` until its package is there."""
    name = sys.argv[0] if getattr(sys, "argv", None) else ""
    as_module = name == "-m" and ("-m", "repshift") in pairwise(sys.orig_argv)
    return as_module or os.path.basename(name) == "repshift"


if (
    is_command()
    and threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, signal.SIG_DFL)
