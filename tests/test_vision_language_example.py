"""The example of docs/vision-language.md runs offline and prints what it says."""

import runpy
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "examples" / "vision_language.py"


def test_the_example_runs(capsys):
    runpy.run_path(str(EXAMPLE))
    out = capsys.readouterr().out
    assert "tokens: {'image': 256, 'prompt': 64}" in out
    # Four layers, keys and values of width 64 in float32; the last word was not read.
    column = 4 * 2 * 64 * 4
    assert f"key-value memory: {column * (68 + 7):,} of {column * (260 + 7):,} bytes" in out
