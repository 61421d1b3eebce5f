"""Scores of the projected tokens of a prompt, by hand; videos frame by frame."""

import pytest
import torch
from torch.nn import functional as F

import models as vision
from repshift import (
    Greedy,
    Grid,
    InputError,
    Keep,
    LastQuery,
    Plan,
    Random,
    Redundancy,
    Relevance,
    Shift,
    Snapshots,
    StreamNorm,
    Temporal,
    VisionLanguagePlan,
    compress,
)
from vision_language_models import IMAGE, VIDEO, build, film, inputs
from vision_language_oracle import Oracle, taken


def _kept(model, batch, keep):
    with compress(model, VisionLanguagePlan(prompt=keep)) as compression, torch.no_grad():
        model(**batch)
        return compression.kept


@pytest.mark.parametrize("diversity", [0.0, 0.5, 1.0])
def test_greedy_takes_the_best_and_discounts_what_is_like_it(diversity):
    model = build("qwen2.5-vl")
    batch = inputs(model, "qwen2.5-vl", (2,), [(8, 12), (8, 8)])
    kept = _kept(model, batch, Keep(7, Greedy(StreamNorm(), diversity)))
    rows = taken(model, batch)["inputs_embeds"][0][batch["input_ids"][0] == IMAGE]
    for image, tokens in enumerate(rows.split([24, 16])):
        norms = tokens.norm(dim=-1)
        worth = (norms - norms.min()) / (norms.max() - norms.min())
        cosine = F.normalize(tokens, dim=-1) @ F.normalize(tokens, dim=-1).T
        found = []
        while len(found) < 7:
            value = worth - diversity * (cosine[:, found].amax(1) if found else -1.0)
            value[found] = -torch.inf
            found.append(int(value.argmax()))
        assert kept[image].tolist() == sorted(found)


def test_greedy_ranks_all_tokens_of_an_encoder_too():
    tokens = torch.tensor([[[1.0, 0.0], [0.9, 0.1], [0.0, 0.5]]])
    order = Greedy(StreamNorm(), 1.0)(Snapshots(0, 0, tokens))
    assert order.tolist() == [[3.0, 1.0, 2.0]]
    padding = torch.tensor([[True, False, False]])
    order = Greedy(StreamNorm(), 1.0)(Snapshots(0, 0, tokens, padding=padding))
    assert order[0, 1] > order[0, 2] > order[0, 0]


def test_redundancy_of_the_projected_tokens():
    model = build("llava")
    batch = inputs(model, "llava", (1,))
    kept = _kept(model, batch, Keep(10, Redundancy("tokens")))
    rows = taken(model, batch)["inputs_embeds"][0][batch["input_ids"][0] == IMAGE]
    cosine = F.normalize(rows, dim=-1)[0::2] @ F.normalize(rows, dim=-1)[1::2].T
    alone = 2 * cosine.amax(1).argsort()[:2]
    assert kept[0].tolist() == sorted([*range(1, 16, 2), *alone.tolist()])


def test_relevance_is_the_nearest_word():
    model = build("llava")
    batch = inputs(model, "llava", (1, 2))
    kept = _kept(model, batch, Keep(5, Relevance()))
    embeds, at = taken(model, batch)["inputs_embeds"], 0
    for row in (0, 1):
        ids = batch["input_ids"][row]
        text = F.normalize(embeds[row][(ids != IMAGE) & (ids > 0)], dim=-1)
        tokens = F.normalize(embeds[row][ids == IMAGE], dim=-1)
        for part in (tokens @ text.T).amax(1).split(16):
            assert kept[at].tolist() == part.topk(5).indices.sort().values.tolist()
            at += 1
    assert at == 3


def test_grid_is_one_of_every_two_by_two_and_any_number():
    model = build("qwen2-vl")
    batch = inputs(model, "qwen2-vl", (2,), [(8, 16), (12, 8)])
    kept = _kept(model, batch, Keep(0.25, Grid()))
    for image, (high, wide) in enumerate([(4, 8), (6, 4)]):
        mask = kept.mask(image)
        assert mask.shape == (high, wide)
        blocks = mask.view(high // 2, 2, wide // 2, 2).sum(dim=(1, 3))
        assert blocks.tolist() == torch.ones(high // 2, wide // 2).long().tolist()
    for number in (1, 2, 7, 13, 23, 24):
        kept = _kept(model, batch, Keep(number, Grid()))
        assert [len(kept[0]), len(kept[1])] == [number, min(number, 24)]


@pytest.mark.parametrize(
    "family", ["qwen2-vl", "qwen2.5-vl", "qwen3-vl", "qwen3.5", "llava onevision"]
)
def test_a_video_is_decided_frame_by_frame(family):
    model = build(family)
    batch = film(model, family)
    plan = VisionLanguagePlan(prompt=Keep(0.5, Random()), decoder=Plan({1: 0.5}, Shift("block")))
    side = 2 if family == "llava onevision" else 4
    with compress(model, plan) as compression, torch.no_grad():
        model(**batch)
        mask, counts = compression.kept.mask(0), compression.counts
        model.generate(**batch, max_new_tokens=2, do_sample=False)
    assert mask.shape == (3, side, side)
    assert mask.sum(dim=(1, 2)).tolist() == [side**2 // 4] * 3
    assert counts == [
        {"image": 3 * side**2, "prompt": 3 * side**2 // 2, "layer 1": 3 * side**2 // 4}
    ]
    only = VisionLanguagePlan(prompt=Keep(0.5, Random(), merge=False))
    with compress(model, only) as compression, torch.no_grad():
        logits = model(**batch).logits[0]
        columns = compression.columns[0]
        written = model.generate(**batch, max_new_tokens=4, do_sample=False)[0, -4:].tolist()
    oracle = Oracle(model, taken(model, batch), 0, columns)
    torch.testing.assert_close(logits, oracle.logits(), atol=2e-5, rtol=1e-4)
    assert written == oracle.write(4)


@pytest.mark.parametrize("family", ["qwen2.5-vl", "qwen3-vl", "llava onevision"])
def test_temporal_keeps_what_changed(family):
    model = build(family)
    batch = film(model, family)
    kept = _kept(model, batch, Keep(0.5, Temporal())).mask(0)
    rows = taken(model, batch)["inputs_embeds"][0][batch["input_ids"][0] == VIDEO]
    frames = rows[: rows.shape[0] // 3 * 3].unflatten(0, (3, -1))
    change = 1 - F.cosine_similarity(frames[1:], frames[:-1], dim=-1)
    assert kept[0].all()
    for frame, changed in zip(kept[1:], change, strict=True):
        half = len(changed) // 2
        assert frame.flatten().nonzero().flatten().tolist() == sorted(
            changed.topk(half).indices.tolist()
        )


def test_an_image_is_a_first_frame():
    model = build("qwen2.5-vl")
    batch = inputs(model, "qwen2.5-vl", (1,))
    assert _kept(model, batch, Keep(0.5, Temporal())).mask(0).all()


@pytest.mark.parametrize("score", [Temporal(), Grid(), Relevance()], ids=str)
def test_scores_of_a_prompt_are_refused_elsewhere(score):
    with pytest.raises(InputError, match="vision-language"):
        compress(vision.build("deit"), Plan({1: 0.3}, score))
    with pytest.raises(InputError, match="a layer of a language model"):
        VisionLanguagePlan(decoder=Plan({1: 0.3}, score))


@pytest.mark.parametrize(
    "plan",
    [
        VisionLanguagePlan(prompt=Keep(0.5, Relevance())),
        VisionLanguagePlan(decoder=Plan({1: 0.5}, LastQuery())),
    ],
    ids=str,
)
def test_what_reads_the_words_is_refused_without_a_cache(plan):
    model = build("llava")
    batch = inputs(model, "llava", (1,))
    with compress(model, plan):
        with pytest.raises(InputError, match="use_cache=True"):
            model.generate(**batch, max_new_tokens=2, do_sample=False, use_cache=False)
        model.model.language_model.config.use_cache = False
        with pytest.raises(InputError, match="use_cache=True"):
            model(**batch)
