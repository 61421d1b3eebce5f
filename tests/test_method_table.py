"""docs/methods.md says what is registered, and its example works as it stands there."""

import re
import sys
from pathlib import Path

import pytest
import torch

from models import build, images
from repshift import Plan, Reduction, Score, compress, registry
from repshift.registry import registered

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
sys.path.insert(0, str(ROOT / "scripts"))


def test_the_catalogue_is_up_to_date():
    import method_table

    assert method_table.page() == PAGE, "run: python scripts/method_table.py"


@pytest.mark.parametrize("kind", [Score, Reduction])
def test_every_method_is_in_the_catalogue(kind):
    for name, method in registered(kind).items():
        assert PAGE.count(f"| `{method()}` |") == 1, name


def test_the_example_is_a_score(monkeypatch):
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {"__name__": __name__}
    exec(code, names)
    plan = Plan.from_method("loudest(2) + merge", {0: 5})
    assert plan.score == names["Loudest"](2.0)
    model = build("deit")
    with compress(model, plan) as compression, torch.no_grad():
        model(images())
        assert compression.counts[0] == 1 + 30
