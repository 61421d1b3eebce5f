"""Every example runs offline and prints what it says."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
PRINTED = {
    "dense_features": "133 of 257 tokens; restored to (4, 16, 16, 384)",
    "find_a_plan": "of 540 digits",
    "find_photographs": "motorcycle_right.png, 133 of 257 tokens kept",
    "own_model": "[53, 53, 43, 43, 33, 33]",
    "own_score": "loudest: ",
    "three_lines": "compressed: 102 tokens, 0.8",
}


def test_every_example_is_tested():
    elsewhere = {"serve_encoder", "vision_language"}  # their own test files
    assert {file.stem for file in EXAMPLES.glob("*.py")} == {*PRINTED, *elsewhere}


@pytest.mark.parametrize("name", PRINTED)
@pytest.mark.usefixtures("unregistered", "quick")
def test_the_example_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("repshift.search.search_plan.METHODS", ("random",))
    monkeypatch.setattr("repshift.search.candidates.PATIENCE", 2)
    for limit, value in {"SAMPLE": 4, "_TIMED": 1, "ROUNDS": 1}.items():
        monkeypatch.setattr(f"repshift.evaluation.collection.comparison.{limit}", value)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert PRINTED[name] in capsys.readouterr().out
