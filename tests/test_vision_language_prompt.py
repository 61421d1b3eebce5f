"""Visual tokens that leave between the connector and the language model."""

import copy
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from repshift import Keep, Plan, Random, Reverse, Score, VisionLanguagePlan, compress
from vision_language_models import FAMILIES, IMAGE, QWEN, build, inputs
from vision_language_oracle import Oracle, taken


@dataclass(frozen=True)
class Place(Score):
    """The later, the more important."""

    name: ClassVar[str] = "place"

    def __call__(self, snapshot):
        return torch.arange(snapshot.tokens.shape[1]).float().expand(snapshot.tokens.shape[:2])


HALF = VisionLanguagePlan(prompt=Keep(0.5, Random(), merge=False))


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


@pytest.mark.parametrize("family", FAMILIES)
def test_every_word_stands_where_it_does_in_the_dense_prompt(family):
    model = build(family)
    batch = inputs(model, family, (1, 2))
    plan = VisionLanguagePlan(
        prompt=Keep(0.5, Random(), merge=False), decoder=Plan({0: 0.5}, Random())
    )

    def places():
        seen = []
        handle = model.model.get_submodule(_language(model)).register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(kwargs["position_ids"]), with_kwargs=True
        )
        model.generate(**batch, max_new_tokens=4, do_sample=False)
        handle.remove()
        return seen

    dense = places()
    with compress(model, plan) as compression:
        own = places()
        columns = compression.columns
    # A hook on the language model sees what the model gives it, before anything leaves.
    assert len(dense) == 4
    assert all(map(torch.equal, dense, own))
    assert columns.shape[1] < batch["input_ids"].shape[1]


def _language(model):
    return "text_model" if hasattr(model.model, "text_model") else "language_model"


@pytest.mark.parametrize("family", ["llava", "qwen3-vl", "gemma3"])
def test_a_copy_of_the_model_has_a_compression_of_its_own(family):
    model = build(family)
    batch = inputs(model, family, (1,))
    with compress(model, HALF), torch.no_grad():
        logits = model(**batch).logits
        twin = copy.deepcopy(model)
        part = copy.deepcopy(model.model.language_model)
    with torch.no_grad():
        assert model(**batch).logits.shape[1] > logits.shape[1]
        assert torch.equal(twin(**batch).logits, logits)
        text = model.get_input_embeddings()(batch["input_ids"])
        plain = model.model.language_model(inputs_embeds=text).last_hidden_state
        assert torch.equal(part(inputs_embeds=text).last_hidden_state, plain)


@pytest.mark.parametrize(
    "keep", [None, Keep(0.5, Random(), merge=False), Keep(0.9, Random(), merge=True)]
)
def test_what_a_tower_left_does_not_reach_the_language_model(keep, monkeypatch):
    """A tower lays rows back as zeros and says which it kept."""
    from repshift.vision_language import layout
    from repshift.vision_language import model as site

    model = build("qwen3-vl")
    batch = inputs(model, "qwen3-vl", (1, 1), [(8, 12), (8, 8)])
    alive = torch.arange(24 + 16) % 3 > 0
    monkeypatch.setattr(
        site,
        "_lengths",
        lambda output: layout.Features([len(one) for one in output.pooler_output], alive),
    )
    plan = VisionLanguagePlan(prompt=keep, decoder=Plan({1: 0.0}))
    with compress(model, plan) as compression:
        with torch.no_grad():
            model(**batch)
        kept = [compression.kept[image].tolist() for image in (0, 1)]
        columns, counts = compression.columns, compression.counts
        written = model.generate(**batch, max_new_tokens=4, do_sample=False)[:, -4:]
    marks = [part.nonzero().flatten().tolist() for part in alive.split([24, 16])]
    for image in (0, 1):
        assert set(kept[image]) <= set(marks[image])
        of = (24, 16)[image] // 2 if keep == Keep(0.5, Random(), merge=False) else len(marks[image])
        assert counts[image]["prompt"] == len(kept[image]) == of
    if keep is None or not keep.merge:
        for row, oracle in enumerate(_oracles(model, batch, columns)):
            assert written[row].tolist() == oracle.write(4)


@pytest.mark.parametrize("family", QWEN)
def test_an_image_without_the_positions_of_its_grid_loses_as_many(family):
    """``generate`` counts the tokens where ``mm_token_type_ids`` are missing."""
    model = build(family)
    batch = inputs(model, family, (1, 2))
    batch.pop("mm_token_type_ids")
    with compress(model, HALF) as compression:
        model.generate(**batch, max_new_tokens=1, do_sample=False)
        assert compression.counts == [{"image": 24, "prompt": 12}] * 3
        every = torch.arange(batch["input_ids"].shape[1]).expand(3, 2, -1)
        with torch.no_grad():
            logits = model(**batch, position_ids=every).logits
        columns = compression.columns
    given = taken(model, {**batch, "position_ids": every})
    for row, own in enumerate(columns):
        oracle = Oracle(model, given, row, own[own >= 0][_real(batch, row, own)])
        torch.testing.assert_close(logits[row][own >= 0], oracle.logits(), atol=2e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llava next", "llava onevision"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_newlines_stay_where_autocast_rounds_them(family, dtype):
    model = build(family)
    batch = inputs(model, family, (1, 2))
    with compress(model, HALF) as compression:
        model(**batch)
        expected, columns = compression.counts, compression.columns
        with torch.autocast("cpu", dtype):
            model(**batch)
        assert compression.counts == expected
        assert torch.equal(compression.columns, columns)


ENDS = {
    "prompt": VisionLanguagePlan(prompt=Keep(3, Reverse(Place()), merge=False)),
    "merged": VisionLanguagePlan(prompt=Keep(1, Reverse(Place()))),
    "decoder": VisionLanguagePlan(decoder=Plan({0: 0.5}, Reverse(Place()))),
    "tower": VisionLanguagePlan(tower=Plan({0: 0.5}, Reverse(Place()))),
}


@pytest.mark.parametrize("side", ["both", "right"])
@pytest.mark.parametrize("plan", ENDS)
@pytest.mark.parametrize("family", ["llava", "qwen2.5-vl"])
def test_the_next_word_is_read_from_the_last_token(family, plan, side):
    """A prompt may end with its image, whose last token would leave."""
    model, batch = build(family), inputs(build(family), family, (1, 1))
    end = int((batch["input_ids"][0] == IMAGE).nonzero().max()) + 1
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        if name in batch:
            own = batch[name][:, :end].clone()
            pad = own.new_zeros(1, 2)
            rows = (own[:1], pad), (pad, own[1:])
            rows = rows if side == "both" else (rows[0], rows[1][::-1])
            batch[name] = torch.cat([torch.cat(row, dim=1) for row in rows])
    with compress(model, ENDS[plan]) as compression:
        with torch.no_grad():
            model(**batch)
        ends = compression.columns.amax(1).tolist()
    assert ends == [end - 1, end + 1 if side == "both" else end - 1]
