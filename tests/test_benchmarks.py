"""The benchmarks: what they share, and that the commands of the docs are read."""

import json
import re
import shlex
import sys
from functools import wraps
from importlib import import_module
from inspect import signature
from pathlib import Path

import pytest

from repshift import InputError

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "docs" / name for name in ("results/README.md", "paper.md")]
COMMANDS = sorted(
    {
        command
        for page in PAGES
        for command in re.findall(
            r"python benchmarks/(\w+)\.py ([^`\n]*)", page.read_text(encoding="utf-8")
        )
    }
)


@pytest.fixture
def benchmarks(monkeypatch):
    """Imports a benchmark; none stays behind, since their names are short."""
    known = set(sys.modules)
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    yield import_module
    for name in set(sys.modules) - known:
        if str(ROOT / "benchmarks") in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize(("name", "arguments"), [row for row in COMMANDS if row[0] != "gpu"])
def test_commands_are_read(benchmarks, monkeypatch, name, arguments):
    if name == "int8":
        pytest.importorskip("torchao")
    arguments = arguments.replace("SUBJECT", "digits").replace("...", "")
    main, read = benchmarks(name).main, []
    monkeypatch.setattr(sys, "argv", [name, *shlex.split(arguments)])
    benchmarks("harness").command(wraps(main)(lambda **given: read.append(given)))
    assert read[0].keys() == signature(main).parameters.keys()
    assert f"--out {read[0]['out']}" in arguments


def test_a_table_has_numbers_to_the_right(benchmarks):
    rows = [("a", 1.5, "0:3"), ("b", "12 %", "")]
    assert benchmarks("harness").table(("x", "y", "z"), rows).splitlines() == [
        "| x | y | z |",
        "| --- | ---: | --- |",
        "| a | 1.5 | 0:3 |",
        "| b | 12 % |  |",
    ]


def test_a_cell_is_empty_where_the_row_has_nothing(benchmarks):
    columns = {"speed": "{gain:.2f}x", "rows and columns": "{rows and columns}", "ms": "{ms:.1f}"}
    rows = [
        {"gain": 1.5, "rows and columns": "4 + 2", "ms": None},
        {"rows and columns": "", "ms": 2},
    ]
    assert benchmarks("harness").cells(columns, rows) == [["1.50x", "4 + 2", ""], ["", "", "2.0"]]


def test_a_report_holds_what_a_stopped_run_had(benchmarks, tmp_path):
    report = benchmarks("harness").Report(tmp_path / "sub" / "a.md", rounds=2)

    def rows():
        yield {"ms": 1.0}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        report.rows({"time": "{ms:.2f}"}, rows())
    held = json.loads((tmp_path / "sub" / "a.json").read_text())
    assert held["rows"] == [{"ms": 1.0}]
    assert held["environment"]["rounds"] == 2
    facts, table = (tmp_path / "sub" / "a.md").read_text().rstrip().split("\n\n")
    assert facts.startswith("rounds 2, device cpu, ")
    assert table.splitlines()[-1] == "| 1.00 |"


def test_one_round_has_no_spread(benchmarks, tmp_path):
    with pytest.raises(InputError, match="--rounds is 1; .* 2 or more"):
        benchmarks("harness").Report(tmp_path / "a").setting(1)
