"""A table of what users get wrong: each is one line, status 2, at once, and nothing is written.

A row (``bad_commands``) is a command and words of the line that it must end in. Where a row takes
long, bad input was not refused before the work.
"""

import os
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bad_commands import TABLE
from bad_plans import DIGITS, FILES


def fill(folder):
    rng = np.random.default_rng(0)
    for name in (
        "folder.json",
        "folder.png",
        "folder.onnx",
        "a_folder",
        "taken/report.html",
        "umt",
    ):
        (folder / name).mkdir(parents=True)
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if isinstance(content, str):
            path.write_text(content)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            height, width = content or (40, 48)
            Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    (folder / "umt" / "msrvtt_ret_test1k.json").write_text("[]")
    (folder / "link.png").symlink_to("photo.png")
    (folder / "full.json").symlink_to("/dev/full")


def state(folder):
    """Every path, and size and time of every file."""
    found = {}
    for parent, folders, names in os.walk(folder):
        found |= dict.fromkeys(os.path.join(parent, name) for name in folders)
        for name in names:
            about = os.lstat(path := os.path.join(parent, name))
            found[path] = about.st_size, about.st_mtime_ns
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("bad")
    fill(made)
    return made, state(made)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("command", "says"), TABLE, ids=[f"{n} {row[0][:60]}" for n, row in enumerate(TABLE)]
)
def test_bad_input(run, folder, monkeypatch, command, says):
    made, before = folder
    monkeypatch.chdir(made)
    status, out, err = run(*shlex.split(command))
    assert (status, out) == (2, ""), err
    [line] = err.splitlines()
    assert line.startswith("repshift: ")
    assert len(line) < 900  # the longest names a file of 300 letters twice
    assert any(one in line for one in says.split("|")), line
    assert state(made) == before


@pytest.mark.parametrize(
    "command",
    [
        "", "benches", "bench --no-such-flag", "bench --batch-size x", "bench --batch-size 1e3",
        "bench --batch-size", "bench --dtype int8", "bench --labels yes", "search --flops x",
        "search --budget none", f"search --seed {DIGITS}", "show", "show a b", "export",
        "retrieve --on-error none", "retrieve --frames 1.5",
    ],
)  # fmt: skip
def test_what_the_parser_refuses(run, folder, monkeypatch, command):
    made, before = folder
    monkeypatch.chdir(made)
    status, _, err = run(*shlex.split(command))
    assert status == 2
    assert "Traceback" not in err
    assert state(made) == before


def test_the_table_is_long():
    assert len(TABLE) >= 150
    assert Path("/dev/full").is_char_device()
