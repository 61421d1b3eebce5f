"""Visual tokens that leave between the connector and the language model."""

import pytest
import torch

from repshift import Keep, Random, VisionLanguagePlan, compress
from vision_language_models import FAMILIES, Oracle, build, inputs, taken

HALF = VisionLanguagePlan(prompt=Keep(0.5, Random()))


def _oracles(model, batch, columns):
    given = taken(model, batch)
    return [
        Oracle(model, given, row, own[own >= 0][_real(batch, row, own)])
        for row, own in enumerate(columns)
    ]


def _real(batch, row, own):
    return batch["attention_mask"][row, own[own >= 0]] > 0


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_language_model_on_gathered_embeddings(family, kernel):
    model = build(family, kernel)
    batch = inputs(model, family, (1, 2))
    with compress(model, HALF) as compression:
        with torch.no_grad():
            logits = model(**batch).logits
        columns, counts = compression.columns, compression.counts
        written = model.generate(**batch, max_new_tokens=6, do_sample=False)[:, -6:]
    assert [count["prompt"] < count["image"] for count in counts] == [True] * 3
    assert logits.shape[1] < batch["input_ids"].shape[1]
    for row, oracle in enumerate(_oracles(model, batch, columns)):
        own = logits[row][columns[row] >= 0]
        torch.testing.assert_close(own, oracle.logits(), atol=2e-5, rtol=1e-4)
        assert written[row].tolist() == oracle.write(6)
