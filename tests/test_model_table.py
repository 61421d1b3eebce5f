"""docs/models.md says what the tests' tables say."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))


@pytest.mark.usefixtures("unchecked")
def test_the_table_of_models_is_up_to_date():
    import model_table

    found = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert found == model_table.table(), "run: python scripts/model_table.py"
