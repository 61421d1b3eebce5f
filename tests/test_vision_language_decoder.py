"""Visual tokens that leave inside the language model."""

import pytest
import torch
from transformers import DynamicCache

from repshift import (
    InputError,
    Keep,
    KeyNorm,
    LastQuery,
    Plan,
    Random,
    Redundancy,
    Shift,
    VisionLanguagePlan,
    compress,
)
from vision_language_models import FAMILIES, build, inputs
from vision_language_oracle import language_of

SCORES = [
    Shift("block"),
    Shift("mlp"),
    Shift("attention"),
    KeyNorm(),
    LastQuery(),
    Redundancy("keys"),
    Random(),
]


class Closed:
    """The dense model, whose layers from ``first`` on do not see the columns that left."""

    def __init__(self, model, kernel, drops, row, real):
        self.model, self.kernel, self.row, self.real = model, kernel, row, real
        self.drops = drops
        self.handles = [
            layer.register_forward_pre_hook(self._close(drop), with_kwargs=True)
            for first, drop in drops.items()
            for layer in language_of(model).layers[first : self._next(first)]
        ]

    def _next(self, first):
        return min((other for other in self.drops if other > first), default=None)

    def _close(self, gone):
        def close(_, args, kwargs):
            mask, queries = kwargs["attention_mask"], args[0].shape[1]
            cache = kwargs.get("cache")
            held = kwargs["position_embeddings"][0].shape[-2]
            keys = self.seen + held if cache is not None else held
            if mask is None:
                mask = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)[None, None]
            closed = torch.zeros(keys, dtype=torch.bool)
            closed[gone] = True
            shut = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
            kwargs["attention_mask"] = mask.masked_fill(closed, shut)
            return args, kwargs

        return close

    @torch.no_grad()
    def run(self, batch, steps):
        self.seen = 0
        output = self.model(**batch, cache=DynamicCache(config=language_of(self.model).config))
        logits, written = output.logits, []
        for _ in range(steps):
            written.append(int(output.logits[0, -1].argmax()))
            self.seen = output.cache.get_seq_length()
            output = self.model(input_ids=torch.tensor([[written[-1]]]), cache=output.cache)
        for handle in self.handles:
            handle.remove()
        return logits, written


def _gone(model, batch, plan):
    """The columns of the dense prompt that a plan drops."""
    with compress(model, plan) as compression, torch.no_grad():
        model(**batch)
        columns = compression.columns[0]
    return sorted(set(range(batch["input_ids"].shape[1])) - set(columns.tolist()))


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "qwen3.5"])
def test_equals_layers_that_do_not_see_what_left(family, kernel):
    model = build(family, kernel)
    batch = inputs(model, family, (1,))
    drops = {0: 0.3, 2: 0.5}
    plan = VisionLanguagePlan(decoder=Plan(drops, Shift("block")))
    first = _gone(model, batch, VisionLanguagePlan(decoder=Plan({0: 0.3}, Shift("block"))))
    with compress(model, plan) as compression:
        with torch.no_grad():
            logits = model(**batch).logits[0]
        columns = compression.columns[0]
        written = model.generate(**batch, max_new_tokens=8, do_sample=False)[0, -8:].tolist()
    second = sorted(set(range(batch["input_ids"].shape[1])) - set(columns.tolist()))
    assert 0 < len(first) < len(second)
    assert set(first) < set(second)
    oracle = Closed(model, kernel, {1: first, 3: second}, 0, None)
    dense, expected = oracle.run(batch, 8)
    torch.testing.assert_close(logits, dense[0, columns], atol=2e-5, rtol=1e-4)
    assert written == expected


@pytest.mark.parametrize("score", SCORES, ids=str)
def test_every_score_equals_layers_that_do_not_see_what_left(score):
    model = build("qwen3-vl")
    batch = inputs(model, "qwen3-vl", (2,))
    plan = VisionLanguagePlan(decoder=Plan({1: 0.5}, score))
    with compress(model, plan) as compression:
        with torch.no_grad():
            logits = model(**batch).logits[0]
        columns, counts = compression.columns[0], compression.counts
        written = model.generate(**batch, max_new_tokens=4, do_sample=False)[0, -4:].tolist()
    gone = sorted(set(range(batch["input_ids"].shape[1])) - set(columns.tolist()))
    assert counts == [{"image": 24, "layer 1": 12}] * 2
    dense, expected = Closed(model, "sdpa", {2: gone}, 0, None).run(batch, 4)
    torch.testing.assert_close(logits, dense[0, columns], atol=2e-5, rtol=1e-4)
    assert written == expected


def test_scores_are_those_of_the_layer():
    """Shift, key norm and last query of a layer, computed by hand on the dense model."""
    model = build("llava")
    batch = inputs(model, "llava", (1,))
    layer, seen = language_of(model).layers[1], {}
    handles = [
        layer.register_forward_hook(
            lambda _, args, output: seen.update(entry=args[0], exit=output)
        ),
        layer.self_attn.q_proj.register_forward_hook(lambda _, __, out: seen.update(query=out)),
    ]
    cache = DynamicCache(config=language_of(model).config)
    with torch.no_grad():
        model(**batch, cache=cache)
    for handle in handles:
        handle.remove()
    visual = (batch["input_ids"][0] == 290).nonzero().flatten()
    shift = (seen["exit"] - seen["entry"])[0, visual].norm(dim=-1)
    keys = cache.layers[1].keys[0][:, visual]
    # The last word's query is turned as its key is: by its place.
    last = batch["input_ids"].shape[1] - 1
    query = seen["query"][0, last].view(4, 16)
    turn = language_of(model).rotary_emb(query, torch.tensor([[last]]))
    query = query * turn[0][0] + torch.cat((-query[:, 8:], query[:, :8]), -1) * turn[1][0]
    logits = (keys.repeat_interleave(2, 0) @ query[..., None])[..., 0] / 4
    rows = [(KeyNorm(), keys.norm(dim=-1).mean(0)), (LastQuery(), logits.softmax(-1).mean(0))]
    for score, values in ((Shift("block"), shift), *rows):
        plan = VisionLanguagePlan(decoder=Plan({1: 6}, score))
        with compress(model, plan) as compression, torch.no_grad():
            model(**batch)
            assert compression.kept[0].tolist() == values.topk(10).indices.sort().values.tolist()


@pytest.mark.parametrize("score", [Shift("block"), LastQuery()], ids=str)
def test_padding_on_the_right_changes_nothing(score):
    model = build("llava")
    left = inputs(model, "llava", (1, 2))
    shift = int((left["attention_mask"][0] == 0).sum())
    right = {**left}
    for key in ("input_ids", "attention_mask"):
        row = left[key][0].roll(-shift)
        right[key] = torch.stack((row, left[key][1]))
    plan = VisionLanguagePlan(
        prompt=Keep(0.7, Random(), merge=False), decoder=Plan({0: 0.3, 1: 5}, score)
    )
    with compress(model, plan) as compression, torch.no_grad():
        logits = model(**right).logits[0]
        real = right["attention_mask"][0] > 0
        own = (compression.columns[0] >= 0) & (compression.columns[0] < int(real.sum()))
        ids = right["input_ids"][:1, real]
        alone = model(input_ids=ids, pixel_values=left["pixel_values"][:1]).logits[0]
    torch.testing.assert_close(logits[own], alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llava", "qwen2.5-vl", "qwen3-vl", "paligemma", "gemma3"])
def test_a_padded_batch_equals_its_rows_by_themselves(family, kernel):
    model = build(family, kernel)
    batch = inputs(model, family, (1, 2))
    plan = VisionLanguagePlan(
        prompt=Keep(0.7, Random(), merge=False), decoder=Plan({0: 0.3, 1: 5}, Shift("block"))
    )
    with compress(model, plan) as compression:
        with torch.no_grad():
            together = model(**batch).logits
        columns = compression.columns
        written = model.generate(**batch, max_new_tokens=5, do_sample=False)[:, -5:]
        pictures = 0
        for row, images in enumerate((1, 2)):
            real = batch["attention_mask"][row] > 0
            alone = {
                key: value[row : row + 1, real]
                for key, value in batch.items()
                if value.shape == batch["input_ids"].shape
            }
            share = len(batch["pixel_values"]) // 3
            part = slice(pictures * share, (pictures + images) * share)
            alone["pixel_values"] = batch["pixel_values"][part]
            if "image_grid_thw" in batch:
                alone["image_grid_thw"] = batch["image_grid_thw"][pictures : pictures + images]
            pictures += images
            with torch.no_grad():
                logits = model(**alone).logits[0]
            own = together[row][columns[row] >= 0]
            torch.testing.assert_close(own, logits, atol=2e-5, rtol=1e-4)
            ids = model.generate(**alone, max_new_tokens=5, do_sample=False)[0, -5:]
            assert ids.tolist() == written[row].tolist()


def test_a_recurrent_language_model_reads_what_is_left():
    """Equals the layers on the rows that are left: what left does not let the state fade."""
    model = build("qwen3.5")
    batch = inputs(model, "qwen3.5", (1,))
    plan = VisionLanguagePlan(decoder=Plan({1: 0.5}, Shift("block")))
    with compress(model, plan) as compression:
        with torch.no_grad():
            logits = model(**batch).logits[0]
        columns = compression.columns[0]
    language = language_of(model)

    def take(_, args, kwargs):
        tables = tuple(table[..., columns, :] for table in kwargs["position_embeddings"])
        stream = args[0][:, columns] if args[0].shape[1] > len(columns) else args[0]
        return (stream,), {**kwargs, "position_embeddings": tables, "attention_mask": None}

    handles = [
        layer.register_forward_pre_hook(take, with_kwargs=True) for layer in language.layers[2:]
    ]
    with torch.no_grad():
        dense = model(**batch, use_cache=False).logits[0]
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(logits, dense, atol=2e-5, rtol=1e-4)


def test_layers_that_do_not_run_are_missed():
    model = build("llava")
    batch = inputs(model, "llava", (1,))
    plan = VisionLanguagePlan(decoder=Plan({1: 0.5}, Shift("block")))
    language_of(model).config.num_hidden_layers = 2
    with compress(model, plan), pytest.raises(InputError, match="layer 2 .* did not run"):
        model(**batch)


def test_after_the_last_layer_nothing_is_saved():
    model = build("llava")
    with pytest.raises(InputError, match="after layer 3 of the language model, which has 4"):
        compress(model, VisionLanguagePlan(decoder=Plan({3: 0.5}, Shift("block"))))
