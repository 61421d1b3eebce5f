"""Every example runs offline and prints what it says."""

import subprocess
import sys
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
    elsewhere = {"vision_language"}  # test_vision_language_example.py
    assert {file.stem for file in EXAMPLES.glob("*.py")} == {*PRINTED, *elsewhere}


@pytest.mark.parametrize("name", PRINTED)
def test_the_example_runs(name, tmp_path):
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert PRINTED[name] in done.stdout
