"""Commands that are ended at any moment, as processes: nothing half-written, no process left.

Ctrl-C goes to the whole group of processes, as from a terminal; the other signals to the command.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")

SHORT = """
import repshift.evaluation.tasks.bench as bench
import repshift.evaluation.tasks.video_bench as video_bench
import repshift.evaluation.zoo.clips.files as files
bench.ROUNDS = video_bench.ROUNDS = 2
files.CLIPS = 4
"""
DIGITS = ["--model", "digits-vit"]
VIDEOS = ["--plan", "0:0.3", "--batch-size", "2", "--workers", "2", "--out", "o"]
# Each command, the results that appear together, and how many of the 20 moments are its.
COMMANDS = {
    "show": (["show", "photos/0.png", *DIGITS, "--out", "o/t.png"], {"t.png"}, 2),
    "export": (["export", "digits-vit", "--out", "o/m.onnx"], {"m.onnx"}, 2),
    "search": (
        ["search", *DIGITS, "--flops", "0.8", "--samples", "4", "--methods", "random",
         "--out", "o/plan.json"],
        {"plan.json", "plan.png"},
        4,
    ),
    "bench": (
        ["bench", *DIGITS, "--images", "photos", "--methods", "tome", "--out", "o",
         "--json", "o/copy.json"],
        {"bench.json", "bench.csv", "pareto.png", "report.html", "copy.json"},
        4,
    ),
    "retrieve": (
        ["retrieve", *VIDEOS],
        {"retrieval.json", "retrieval.csv", "retrieval.png", "retrieval.html"},
        5,
    ),
    "answer": (
        ["answer", *VIDEOS], {"answers.json", "answers.csv", "answers.png", "answers.html"}, 3,
    ),
}  # fmt: skip
TIMED = {"gflops", "peak_mb", "images_per_s", "videos_per_s", "spread", "speedup_vs_eager",
         "speedup_vs_fused", "flop_share"}  # fmt: skip


class Command:
    """One run of ``repshift`` in ``folder``, whose processes carry a mark in their environment."""

    def __init__(self, folder, arguments):
        self.mark = uuid.uuid4().hex
        # Coverage handles SIGTERM before the command does: it does not follow into this process.
        environment = {key: value for key, value in os.environ.items() if "COVERAGE" not in key}
        environment |= {"REPSHIFT_TEST_MARK": self.mark, "OMP_NUM_THREADS": "1"}
        self.errors = folder / f"errors-{self.mark}"
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "repshift", *arguments, "--import", "short.py"],
                cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=errors,
                start_new_session=True,
            )  # fmt: skip

    def processes(self):
        found = []
        for place in Path("/proc").iterdir():
            try:
                if place.name.isdigit() and self.mark.encode() in (place / "environ").read_bytes():
                    found.append(int(place.name))
            except OSError:
                continue
        return found

    def until(self, reached, seconds=120):
        end = time.monotonic() + seconds
        while not reached():
            assert time.monotonic() < end, self.said()
            if self.process.poll() is not None:
                return
            time.sleep(0.01)

    def handles(self):
        """Whether the command has come so far that it handles SIGTERM."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return False
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)
        return bool(caught >> (signal.SIGTERM - 1) & 1)

    def send(self, number):
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    def ended(self, seconds=60):
        status = self.process.wait(seconds)
        end = time.monotonic() + seconds
        while left := self.processes():
            assert time.monotonic() < end, f"still there: {left}"
            time.sleep(0.05)
        return status

    def said(self):
        return self.errors.read_text()


def fill(folder):
    (folder / "photos").mkdir(parents=True)
    (folder / "short.py").write_text(SHORT)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 48, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / "photos" / f"{number}.png")


def whole(folder, results):
    """Whether the results are there; all of them or none, and no file of any kind in parts."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name[0] != "."]
    for path in files:
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".png":
            with Image.open(path) as picture:
                picture.load()
        elif path.suffix == ".safetensors":
            with safe_open(path, "pt") as opened:
                assert all(opened.get_tensor(key) is not None for key in opened.keys())  # noqa: SIM118
        else:
            assert path.stat().st_size
    there = results & {path.name for path in files if path.parent == folder}
    assert there in (results, set()), there
    return bool(there)


def outcome(folder, results):
    """What a run gives each time: the files, but for what is timed and drawn from that."""
    found = {}
    for name in sorted(results):
        path = folder / name
        if path.suffix == ".json" and "rows" in (form := json.loads(path.read_text())):
            found[name] = [
                {key: value for key, value in row.items() if key not in TIMED}
                for row in form["rows"]
            ]
        elif len(results) <= 2:
            found[name] = path.read_bytes()
    return found


def finish(folder, arguments):
    started = time.monotonic()
    command = Command(folder, arguments)
    assert command.ended(seconds=600) == 0, command.said()
    return time.monotonic() - started


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_ended_at_random_moments_and_run_again(tmp_path, name):
    arguments, results, moments = COMMANDS[name]
    draws = random.Random(name)
    for folder in ("undisturbed", "disturbed"):
        fill(tmp_path / folder)
    taken = finish(tmp_path / "undisturbed", arguments)
    expected = outcome(tmp_path / "undisturbed" / "o", results)
    signals = [signal.SIGKILL, signal.SIGINT, signal.SIGTERM]
    for moment in range(moments):
        number = signals[moment % 3]
        command = Command(tmp_path / "disturbed", arguments)
        command.until(command.handles)
        after = draws.uniform(0, taken)
        started = time.monotonic()
        command.until(lambda after=after, started=started: time.monotonic() > started + after)
        if command.process.poll() is None:
            command.send(number)
        status = command.ended()
        assert status in {0, -number, 128 + number}, command.said()
        if number != signal.SIGKILL:
            assert "Traceback" not in command.said()
        whole(tmp_path / "disturbed" / "o", results)
    finish(tmp_path / "disturbed", arguments)
    assert whole(tmp_path / "disturbed" / "o", results)
    assert outcome(tmp_path / "disturbed" / "o", results) == expected


@pytest.mark.parametrize(("number", "after"), [(signal.SIGINT, 0.7), (signal.SIGTERM, 0)])
def test_a_signal_during_the_imports_of_a_command_is_one_line(tmp_path, number, after):
    fill(tmp_path)
    command = Command(tmp_path, COMMANDS["show"][0])
    command.until(command.handles)
    time.sleep(after)
    command.send(number)
    assert command.ended() == 128 + number, command.said()
    word = "interrupted" if number == signal.SIGINT else "ended by SIGTERM"
    assert command.said() == f"repshift: {word}; no file is half-written\n"
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_torch_is_imported_is_the_end(tmp_path, number):
    fill(tmp_path)
    command = Command(tmp_path, COMMANDS["show"][0])
    maps = Path(f"/proc/{command.process.pid}/maps")
    command.until(lambda: "libtorch" in maps.read_text())
    command.send(number)
    assert command.ended() in {-number, 128 + number}
    assert "Traceback" not in command.said()
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(  # SIGTERM is handled as SIGINT is
    "number",
    [signal.SIGKILL, signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)],
)
def test_processes_that_decode_end_with_the_command(tmp_path, number):
    fill(tmp_path)
    command = Command(tmp_path, COMMANDS["retrieve"][0])
    # The command, the resource tracker, the fork server and both workers.
    command.until(lambda: len(command.processes()) >= 5)
    if number == signal.SIGKILL:
        assert command.process.poll() is None
    command.send(number)
    status = command.ended(seconds=30)
    assert status in {0, -number, 128 + number}, command.said()
    if number != signal.SIGKILL:
        assert "Traceback" not in command.said()
    whole(tmp_path / "o", COMMANDS["retrieve"][1])


@pytest.mark.slow
def test_two_searches_into_one_place_do_not_mix(tmp_path):
    results = {"plan.json", "plan.png"}
    search = COMMANDS["search"][0]
    runs = [search, [one.replace("random", "redundancy(mlp)") for one in search]]
    alone = []
    for number, arguments in enumerate(runs):
        fill(tmp_path / str(number))
        finish(tmp_path / str(number), arguments)
        alone.append(outcome(tmp_path / str(number) / "o", results))
    assert alone[0] != alone[1]
    fill(tmp_path / "both")
    both = [Command(tmp_path / "both", arguments) for arguments in runs]
    for command in both:
        assert command.ended(seconds=600) == 0, command.said()
    assert outcome(tmp_path / "both" / "o", results) in alone
    assert {path.name for path in (tmp_path / "both" / "o").iterdir()} == results
