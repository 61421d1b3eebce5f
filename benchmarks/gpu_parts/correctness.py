"""The tests marked gpu, one case a file, so that a stopped run keeps what it has."""

import os
from functools import partial
from pathlib import Path

import pytest

NEEDS = ("pytest", "timm")
COLUMNS = {
    **{head: f"{{{head}}}" for head in ("file", "test", "passed", "failed", "skipped")},
    "s": "{s:.1f}",
    "first failure": "{failure}",
}
TESTS = Path(__file__).parents[2] / "tests"
# Promises first, what takes long last.
FILES = ("kernels", "promises", "memory", "lengths", "libraries", "compiled")


class Recorder:
    """Counts the outcomes of every test function."""

    def __init__(self, file):
        self.file, self.rows = file, {}

    def pytest_runtest_logreport(self, report):
        name = report.location[2].partition("[")[0]
        counts = {"passed": 0, "failed": 0, "skipped": 0, "s": 0.0, "failure": ""}
        row = self.rows.setdefault(name, {"file": self.file, "test": name, **counts})
        row["s"] += report.duration
        if report.when == "call" or not report.passed:
            row[report.outcome] += 1
        if report.failed and not row["failure"]:
            crash = getattr(report.longrepr, "reprcrash", None)
            told = (crash.message if crash else str(report.longrepr)).strip().splitlines()
            row["failure"] = f"{report.location[2]}: {told[0] if told else ''}".replace("|", "/")


def run(file, device):
    os.environ["REPSHIFT_TEST_DEVICE"] = device.type
    recorder = Recorder(file)
    options = ["-m", "gpu", "-W", "default", "-p", "no:cacheprovider", "-p", "no:xdist", "-q"]
    status = pytest.main([str(TESTS / f"test_gpu_{file}.py"), *options], plugins=[recorder])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) or not recorder.rows:
        raise RuntimeError(f"pytest ended with status {int(status)}; its output tells why")
    return list(recorder.rows.values())


def cases(setting):
    return {file: partial(run, file, setting.device) for file in FILES}
