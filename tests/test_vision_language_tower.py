"""Tokens that leave inside the tower do not reach the language model, alone and with the rest."""

import copy

import pytest
import torch

from repshift import (
    InputError,
    Keep,
    KeyNorm,
    Plan,
    Random,
    Shift,
    VisionLanguagePlan,
    compress,
)
from repshift.vision_language.tower import Tower
from vision_language_models import QWEN, build, inputs
from vision_language_oracle import Oracle, taken

FAMILIES = [
    "llava",
    "qwen2.5-vl",
    "qwen3-vl",
    "llava next",
    "llava onevision",
    "internvl",
    "smolvlm",
    "gemma3",
]
TOWER = Plan({0: 0.4}, Shift("block"))


def columns_kept(model, batch, plan):
    """Which columns of each row a tower leaves to the language model, and what that is given."""
    with torch.no_grad():
        tower = Tower(model.model, plan)
        given = taken(model, batch)
        marks = tower.kept["image"]
        tower.detach()
    ids, image = batch["input_ids"], model.config.image_token_id
    alive = torch.ones_like(ids, dtype=torch.bool)
    alive[ids == image] = marks
    alive &= batch["attention_mask"] > 0
    return given, [row.nonzero().flatten() for row in alive]


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_language_model_on_what_the_tower_kept(family):
    model = build(family)
    batch = inputs(model, family, (1, 2))
    given, columns = columns_kept(model, batch, TOWER)
    with compress(model, VisionLanguagePlan(tower=TOWER)) as compression:
        with torch.no_grad():
            logits = model(**batch).logits
        found, counts = compression.columns, compression.counts
        written = model.generate(**batch, max_new_tokens=4, do_sample=False)[:, -4:]
    assert any(count["prompt"] < count["image"] for count in counts)
    for row, own in enumerate(columns):
        places = found[row][found[row] >= 0]
        real = batch["attention_mask"][row, places] > 0
        assert places[real].tolist() == own.tolist()
        oracle = Oracle(model, given, row, own)
        mine = logits[row][found[row] >= 0][real]
        torch.testing.assert_close(mine, oracle.logits(), atol=2e-5, rtol=1e-4)
        assert written[row].tolist() == oracle.write(4)
    dense = model.model.get_image_features
    assert "ReplacedMethod" not in type(dense).__name__  # detached


@pytest.mark.parametrize("family", ["llava", "qwen2.5-vl", "internvl"])
def test_beams_and_samples_follow(family):
    model = build(family)
    batch = inputs(model, family, (2,))
    plan = VisionLanguagePlan(tower=TOWER)
    with compress(model, plan):
        alone = model.generate(**batch, max_new_tokens=4, do_sample=False, num_beams=1)
        beams = model.generate(**batch, max_new_tokens=4, do_sample=False, num_beams=3)
        uncached = model.generate(**batch, max_new_tokens=4, do_sample=False, use_cache=False)
    assert beams.shape[0] == alone.shape[0]
    assert torch.equal(alone, uncached)


@pytest.mark.parametrize("family", ["llava", "qwen3-vl"])
def test_all_three_places_go_together(family):
    model = build(family)
    batch = inputs(model, family, (1, 1))
    plan = VisionLanguagePlan(
        tower=TOWER, prompt=Keep(0.4, Random(), merge=False), decoder=Plan({0: 0.5}, KeyNorm())
    )
    with compress(model, plan) as compression, torch.no_grad():
        model(**batch)
        counts = compression.counts
        kept = [compression.kept[image] for image in range(len(counts))]
        places = ("image", "tower", "prompt", "layer 0")
        after = {place: compression.kept_after(place) for place in places}
        with pytest.raises(InputError, match="its places are image, tower, prompt, layer 0"):
            compression.kept_after("layer 1")
    for image, count in enumerate(counts):
        assert tuple(count) == places
        assert count["image"] > count["tower"] > count["prompt"] > count["layer 0"]
        cells = [set(after[place][image].tolist()) for place in places]
        assert [len(own) for own in cells] == list(count.values())
        assert cells[0] > cells[1] > cells[2] > cells[3]
        assert kept[image].tolist() == after["layer 0"][image].tolist()


def test_a_tower_that_cannot_drop_is_refused_and_leaves_nothing_behind():
    model = build("llava")
    batch = inputs(model, "llava", (1,))
    with torch.no_grad():
        dense = model(**batch).logits
    with pytest.raises(InputError, match="drops at block 99"):
        compress(model, VisionLanguagePlan(tower=Plan({99: 0.3})))
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, dense)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llava", "qwen2.5-vl"])
def test_a_tower_at_work_is_not_compressed_by_itself(family):
    """What it leaves behind would be read as that of the tokens that the whole plan drops."""
    model, batch = build(family), inputs(build(family), family, (1,))
    tower = model.model.visual if family in QWEN else model.model.vision_tower
    plan = VisionLanguagePlan(tower=TOWER)
    compression = compress(model, plan)
    logits = model(**batch).logits
    with pytest.raises(InputError, match="a vision-language model is at work in this tower"):
        compress(tower, Plan({0: 0.25}, Random()))
    assert torch.equal(model(**batch).logits, logits)
    twin = copy.deepcopy(model)
    compress(twin, plan)
    assert torch.equal(twin(**batch).logits, logits)
    compression.detach()
    compress(tower, Plan({0: 0.25}, Random()))
    with compress(model, plan):
        assert torch.equal(model(**batch).logits, logits)


@pytest.mark.parametrize("plan", [None, TOWER], ids=["all", "some"])
@pytest.mark.parametrize("family", ["llava", "qwen2.5-vl", "qwen3-vl", "internvl"])
def test_a_prompt_keeps_by_what_a_block_of_the_tower_did(family, plan):
    model, score = build(family), Shift("block")
    batch = inputs(model, family, (1, 1))
    with torch.no_grad():
        tower = Tower(model.model, plan, score)
        taken(model, batch)
        marks, scores = tower.kept["image"], tower.scores["image"]
        tower.detach()
    whole = VisionLanguagePlan(tower=plan, prompt=Keep(0.4, score, merge=False))
    assert VisionLanguagePlan.from_json(whole.to_json()) == whole
    with compress(model, whole) as compression:
        with torch.no_grad():
            model(**batch)
        counts = compression.counts
        kept = [compression.kept[image].tolist() for image in range(len(counts))]
        beams = model.generate(**batch, max_new_tokens=3, do_sample=False, num_beams=2)
    assert len(beams) == 2
    start = 0
    for image, count in enumerate(counts):
        own = slice(start, start + count["image"])
        start += count["image"]
        places = marks[own].nonzero().flatten()
        ranked = places[scores[own][places].argsort(descending=True, stable=True)]
        assert sorted(kept[image]) == sorted(ranked[: count["prompt"]].tolist())
