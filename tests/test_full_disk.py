"""A disk, a memory or a terminal that refuses is one line, and nothing is half-written."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from repshift import InputError
from repshift.evaluation.data.clips import Clips
from repshift.evaluation.data.frame_cache import FrameCache
from repshift.evaluation.data.videos import Sampling
from repshift.evaluation.tasks.store import Store
from video_files import write_video

DIGITS = ["--model", "digits-vit"]


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def files(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def command(name):
    bench = ["bench", *DIGITS, "--images", "photos", "--methods", "random", "--plan", "0:0.5"]
    images = ["--images", "photos", "--samples", "2"]
    search = [
        "search",
        "--model",
        "small_model.py:make",
        *images,
        "--flops",
        "0.8",
        "--methods",
        "random",
    ]
    return {
        "show": ["show", "photos/0.png", *DIGITS, "--out", "o/a.png"],
        "search": [*search, "--out", "o/plan.json"],
        "bench": [*bench, "--out", "o", "--json", "copy.json"],
    }[name]


# By what each command's last file is written.
LAST = {
    "show": "repshift.evaluation.report.names.save",
    "search": "repshift.evaluation.report.tried.save",
    "bench": "repshift.evaluation.report.results.write_page",
}


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("name", LAST)
def test_a_full_disk_at_the_last_file_leaves_none(run, photos, tmp_path, monkeypatch, name):
    before = files(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(LAST[name], full)
        status, _, err = run(*command(name))
    lines = [line for line in err.splitlines() if line.startswith("repshift: ")]
    assert status == 2, err
    assert lines[0].startswith("repshift: cannot write ")
    assert lines[0].endswith(": No space left on device")
    assert "Traceback" not in err
    goes_on = (".search.json", ".safetensors")  # what the next run goes on from
    assert [one for one in files(tmp_path) if not one.endswith(goes_on)] == before


def test_a_full_disk_under_an_export(run, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: SimpleNamespace(save=full))
    status, _, err = run("export", "digits-vit", "--out", "o/a.onnx")
    assert (status, err) == (2, "repshift: cannot write o/a.onnx: No space left on device\n")
    assert files(tmp_path / "o") == []


def test_a_full_disk_under_pieces_and_clips(tmp_path, monkeypatch):
    video = write_video(tmp_path / "a.mp4", 5)
    store, cache = Store(tmp_path / "s", {}), FrameCache(tmp_path / "c")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"cannot write .*piece\.safetensors: No space left"):
        store.write("piece", {"x": torch.ones(2)})
    for workers in (0, 1):
        with pytest.raises(InputError, match=r"cannot write .*: (No space left|Not a directory)"):
            list(Clips([video], Sampling(2, 16), cache, workers=workers))
        cache = FrameCache(tmp_path / "a.mp4")  # refused in the other process too
    assert files(tmp_path) == ["a.mp4"]


def test_an_error_in_a_worker_is_one_line(run, tmp_path, monkeypatch):
    monkeypatch.setattr("repshift.evaluation.zoo.clips.files.CLIPS", 2)
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "frames").write_text("in the way")
    status, _, err = run("retrieve", "--workers", 1, "--plan", "0:0.5", "--out", "o")
    assert status == 2, err
    assert err.splitlines()[-1].startswith("repshift: cannot write o/frames/")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "the memory does not suffice; pass a smaller --batch-size"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried\nmore"), "(CUDA out of memory. Tried)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you"), "can't allocate memory"),
        (RuntimeError("Storage size calculation overflowed"), "Storage size calculation"),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), "Permission denied: a/b"),
    ],
)
def test_what_the_machine_refuses_in_a_forward(run, photos, monkeypatch, error, says):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr("repshift.evaluation.report.pictures.token_pictures", refuse)
    status, out, err = run(*command("show"))
    assert (status, out) == (2, "")
    [line] = err.splitlines()
    assert line.startswith("repshift: ")
    assert says in line


@pytest.mark.parametrize("error", [RuntimeError("a fault of the program"), OSError("of another")])
def test_a_fault_of_the_program_keeps_its_traceback(run, photos, monkeypatch, error):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr("repshift.evaluation.report.pictures.token_pictures", refuse)
    with pytest.raises(type(error), match="of"):
        run(*command("show"))


@pytest.mark.parametrize(
    ("place", "status", "says"),
    [("/dev/full", 2, "repshift: No space left on device\n"), ("pipe", 1, "")],
)
def test_a_terminal_that_takes_nothing(place, status, says):
    if place == "pipe":
        read, write = os.pipe()
        os.close(read)
    else:
        write = os.open(place, os.O_WRONLY)
    done = subprocess.run(
        [sys.executable, "-m", "repshift", "--version"], text=True, check=False,
        stdout=write, stderr=subprocess.PIPE,
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (status, says)


def test_what_was_written_stays_where_the_terminal_takes_nothing(
    run, photos, tmp_path, monkeypatch
):
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        status, _, err = run(*command("show"))
    assert (status, err) == (2, "repshift: No space left on device\n")
    assert (tmp_path / "o" / "a.png").exists()
