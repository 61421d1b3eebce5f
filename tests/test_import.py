"""Importing the package changes nothing global, but where the process is the command itself."""

import os
import signal
import subprocess
import sys

import pytest

from repshift import interrupts


def test_a_script_keeps_its_ctrl_c():
    code = (
        "import signal, sys, repshift\n"
        "assert 'repshift.evaluation' not in sys.modules\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
        "import repshift.compress, repshift.cli\n"
        "print(callable(repshift.compress), callable(repshift.search_plan))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env=os.environ | {"CUDA_HOME": "/usr"},  # of which PyTorch warns where there is no GPU
    )  # fmt: skip
    assert (done.stdout.split(), done.stderr) == (["True", "True"], "")


@pytest.mark.parametrize(
    ("argv", "original", "command"),
    [
        (["-m"], ["python", "-m", "repshift", "bench"], True),
        (["-m"], ["python", "-X", "dev", "-m", "repshift"], True),
        (["/usr/bin/repshift", "bench"], ["python", "/usr/bin/repshift", "bench"], True),
        (["-m"], ["python", "-m", "pytest"], False),
        (["run.py", "-m", "repshift"], ["python", "run.py", "-m", "repshift"], False),
        (["-c"], ["python", "-c", "import repshift"], False),
        ([""], ["python"], False),
        ([], [], False),
    ],
)
def test_what_is_the_command(monkeypatch, argv, original, command):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", original)
    assert interrupts.is_command() is command
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
