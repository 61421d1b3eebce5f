"""benchmarks/gpu.py must not fail on the day a GPU is there: all its parts, tiny, on the CPU."""

import json
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
# What takes a process of its own is tested below.
PARTS = ("images", "video", "others", "vision_language", "profile", "compiled")
# A test of every file that takes no time.
SHORT = (
    "(bit_equal or in_a_batch) and float32 and dinov3 and not redundancy or fused_kernel or "
    "matching_forms or torchvision or cuda_graphs"
)
# On float32 and CPU: what forms the map in some blocks at least.
EAGER = ("dense, eager attention", "class-attention", "tome, eager attention (as published)")


@pytest.fixture
def gpu(plain, monkeypatch):
    """The suite as a module."""
    known = set(sys.modules)
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import gpu

    yield gpu
    for name in set(sys.modules) - known:
        if str(SCRIPT.parent) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def in_process(gpu, monkeypatch):
    """Its parts run in this process."""

    def start_part(name, arguments, limit, log):
        monkeypatch.setattr(sys, "argv", [*sys.argv, "--one", name])
        gpu.main()
        sys.argv[-2:] = []
        return ""

    monkeypatch.setattr(gpu, "start_part", start_part)


@pytest.fixture
def suite(gpu, monkeypatch, capsys):
    def run(out, *options):
        options = ["--tiny", "--device", "cpu", "--out", str(out), *options]
        monkeypatch.setattr(sys, "argv", ["gpu.py", *options])
        gpu.main()
        return capsys.readouterr().out

    return run


def check(part, out, printed):
    held = json.loads(out.with_suffix(".json").read_text())["parts"][part]
    assert held["planned"] == list(held["cases"])
    assert all(held["cases"].values())
    assert not held["errors"]
    assert f"{part}: {len(held['cases'])} of {len(held['cases'])} cases" in printed
    text = out.with_suffix(".md").read_text()
    for rows in held["cases"].values():
        for row in rows:
            assert {type(value) for value in row.values()} <= {str, int, float, type(None)}
        assert str(next(iter(rows[0].values()))) in text
    for row in (row for rows in held["cases"].values() for row in rows if part == "images"):
        assert row["images_per_s"] > 0
        assert (row["kernel"] == "flash") == (row["method"] not in EAGER)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("part", PARTS)
def test_every_part_runs(tmp_path, suite, part):
    printed = suite(tmp_path / "gpu", "--parts", part)
    check(part, tmp_path / "gpu", printed)


@pytest.mark.parametrize("tests", [SHORT, pytest.param("", marks=pytest.mark.slow)])
def test_the_tests_run_in_a_process(tmp_path, suite, monkeypatch, tests):
    monkeypatch.setenv("PYTEST_ADDOPTS", f"-k '{tests}'" if tests else "")
    check("correctness", tmp_path / "gpu", suite(tmp_path / "gpu", "--parts", "correctness"))


@pytest.mark.usefixtures("in_process")
def test_a_run_goes_on_and_says_what_failed(tmp_path, suite):
    out = tmp_path / "gpu"
    suite(out, "--parts", "profile")
    held = json.loads(out.with_suffix(".json").read_text())
    [case] = held["parts"]["profile"]["cases"]
    held["parts"]["profile"]["cases"][case][0]["us"] = 123456.0
    out.with_suffix(".json").write_text(json.dumps(held))
    suite(out, "--parts", "profile")
    assert "123456" in out.with_suffix(".md").read_text()
    held["environment"]["processor"] = "another"
    out.with_suffix(".json").write_text(json.dumps(held))
    with pytest.raises(SystemExit, match="processor another"):
        suite(out)


def test_a_slow_or_broken_part_costs_only_itself(tmp_path, monkeypatch, gpu):
    def broken(setting):
        return {"good": lambda: [{"a": 1}], "bad": lambda: 1 / 0, "later": lambda: [{"a": 2}]}

    profile = __import__("gpu_parts.profile", fromlist=["cases"])
    monkeypatch.setattr(profile, "cases", broken)
    results = gpu.Results(tmp_path / "gpu.json", {})
    setting = gpu.Setting(gpu.torch.device("cpu"), gpu.torch.float32, True)
    gpu.run_part("profile", setting, results)
    part = gpu.Results(tmp_path / "gpu.json", {}).part("profile")
    assert part["cases"] == {"good": [{"a": 1}], "later": [{"a": 2}]}
    assert gpu.faults("profile", part, "stopped after 1 s") == [
        "profile: stopped after 1 s",
        "profile: bad: ZeroDivisionError: division by zero",
    ]
    monkeypatch.setattr(profile, "NEEDS", ("a_library_nobody_has",))
    gpu.run_part("profile", setting, results)
    assert gpu.faults("profile", results.part("profile"), "") == [
        "profile: skipped, needs a_library_nobody_has"
    ]
