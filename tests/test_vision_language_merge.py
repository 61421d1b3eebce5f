"""Visual tokens that are merged: each counts for as many as it stands for, in every layer."""

import math

import pytest
import torch
from torch.overrides import TorchFunctionMode
from transformers import DynamicCache

from repshift import (
    InputError,
    Keep,
    Merge,
    Plan,
    Prune,
    Random,
    Shift,
    VisionLanguagePlan,
    compress,
)
from vision_language_models import FAMILIES, build, inputs
from vision_language_oracle import language_of, taken

MERGED = VisionLanguagePlan(prompt=Keep(0.5, Random(), merge=True))


def _prompt(model, batch, plan, words=5):
    """What the language model is given under a plan, and what comes out."""
    given = {}
    with compress(model, plan) as compression:
        layer = language_of(model).layers[0]
        handle = layer.register_forward_pre_hook(
            lambda _, args: given.update(given or {"embeds": args[0]})
        )
        with torch.no_grad():
            logits = model(**batch).logits[0]
        handle.remove()
        columns, sizes = compression.columns[0], compression.sizes[0]
        written = model.generate(**batch, max_new_tokens=words, do_sample=False)[0, -words:]
    return given["embeds"], logits, columns, sizes, written.tolist()


def _positions(given, columns):
    positions = given.get("position_ids")
    count = given["inputs_embeds"].shape[1]
    positions = torch.arange(count)[None] if positions is None else positions
    return positions[-3:, :, columns] if positions.ndim == 3 else positions[:, columns]


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llava", "qwen2.5-vl", "qwen3-vl", "smolvlm", "internvl"])
def test_equals_attention_with_the_log_of_sizes_as_a_mask(family, kernel):
    model = build(family, kernel).double()
    batch = inputs(model, family, (2,))
    batch["pixel_values"] = batch["pixel_values"].double()
    given = taken(model, batch)
    embeds, logits, columns, sizes, written = _prompt(model, batch, MERGED)
    assert sizes.max() > 1
    assert sizes.sum() == batch["input_ids"].shape[1]
    language, count = language_of(model), len(columns)
    bias = sizes.double().log()
    mask = torch.full((count, count), -math.inf).double().triu(1) + bias
    extra = {}
    if family == "qwen3-vl":
        extra = _deep(model, batch)
    positions = _positions(given, columns)
    cache = DynamicCache(config=language.config)
    with torch.no_grad():
        output = language(
            inputs_embeds=embeds,
            attention_mask=mask[None, None],
            position_ids=positions,
            cache=cache,
            **extra,
        )
        expected = model.lm_head(output.last_hidden_state)
        torch.testing.assert_close(logits, expected[0], atol=1e-9, rtol=1e-7)
        place, found, rows = int(positions.max()) + 1, [], bias
        for step in range(5):
            found.append(int(expected[0, -1].argmax()))
            rows = torch.cat((rows, torch.zeros(1).double()))
            output = language(
                inputs_embeds=model.get_input_embeddings()(torch.tensor([[found[-1]]])),
                attention_mask=rows[None, None, None],
                position_ids=torch.full((*positions.shape[:-1], 1), place + step),
                cache=cache,
            )
            expected = model.lm_head(output.last_hidden_state)
    assert written == found


def _deep(model, batch):
    """What the layers of Qwen3-VL are given beside the stream, merged."""
    given = {}
    with compress(model, MERGED), torch.no_grad():
        language = language_of(model)
        process = type(language)._deepstack_process

        def note(self, stream, marks, embeds):
            given["visual_pos_masks"] = marks
            given.setdefault("deepstack_visual_embeds", []).append(embeds)
            return process(self, stream, marks, embeds)

        type(language)._deepstack_process = note
        model(**batch)
        type(language)._deepstack_process = process
    return given


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_equals_the_token_repeated_where_all_members_are_equal(kernel):
    """A picture of one colour: what is merged is one token as often as its size, at its place."""
    model = build("llava", kernel).double()
    batch = inputs(model, "llava", (1,))
    batch["pixel_values"] = torch.ones_like(batch["pixel_values"]).double()
    positions = model.model.vision_tower.embeddings.position_embedding
    positions.weight.data.zero_()
    _, logits, columns, sizes, _ = _prompt(model, batch, MERGED)
    given = taken(model, batch)
    visual = batch["input_ids"][0] == 290
    rows = given["inputs_embeds"][0, visual]
    torch.testing.assert_close(rows, rows[:1].expand_as(rows))
    owner = torch.arange(len(columns)).repeat_interleave(sizes.long())
    sees = owner[:, None] >= owner
    language = language_of(model)
    with torch.no_grad():
        output = language(
            inputs_embeds=given["inputs_embeds"][:, columns][:, owner],
            attention_mask=torch.where(sees, 0.0, -math.inf).double()[None, None],
            position_ids=columns[owner][None],
            use_cache=False,
        )
        expected = model.lm_head(output.last_hidden_state)[0]
    assert sizes.max() > 2
    # The norms of the language model compute in float32.
    torch.testing.assert_close(logits[owner], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "kernel"),
    [*((family, "sdpa") for family in FAMILIES), ("qwen3-vl", "eager"), ("gemma3", "eager")],
)
def test_merged_in_prompt_and_decoder_with_and_without_cache(family, kernel):
    """A padded batch writes the same with a cache, without, and row by row."""
    model = build(family, kernel)
    batch = inputs(model, family, (1, 2))
    late = Plan({2: 0.4}, Shift("block"), Merge())
    plan = VisionLanguagePlan(prompt=Keep(0.6, Random(), merge=True), decoder=late)
    with compress(model, plan) as compression:
        with torch.no_grad():
            model(**batch)
        real = batch["attention_mask"].sum(1)
        torch.testing.assert_close(compression.sizes.sum(1), real.float())
        ids = model.generate(**batch, max_new_tokens=4, do_sample=False)
        same = model.generate(**batch, max_new_tokens=4, do_sample=False, use_cache=False)
    assert torch.equal(ids, same)


@pytest.mark.parametrize("merge", [True, False])
def test_no_map_is_formed(merge):
    """Attention in the prompt is causal by the kernel's own flag: no mask of all pairs."""
    model, seen = build("llava"), []
    batch = inputs(model, "llava", (1,))

    class Note(TorchFunctionMode):
        """Below the library's own mode: what reaches the kernel."""

        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is torch.nn.functional.scaled_dot_product_attention:
                mask = (kwargs or {}).get("attn_mask")
                seen.append((args[0].shape[-2], None if mask is None else mask.shape))
            return func(*args, **(kwargs or {}))

    plan = VisionLanguagePlan(
        prompt=Keep(0.5, Random(), merge=merge),
        decoder=Plan({1: 0.3}, Shift("block"), Merge() if merge else Prune()),
    )
    with compress(model, plan), Note():
        model.generate(**batch, max_new_tokens=3, do_sample=False)
    own = [one for one in seen if one[0] != 17]  # the tower has 17 tokens
    assert [queries for queries, mask in own if mask is None][:1] != []
    assert all(mask is None or mask[-2] == 1 for _, mask in own)


def test_flash_attention_cannot_weigh():
    model = build("llava")
    batch = inputs(model, "llava", (1,))
    model.model.language_model.config._attn_implementation = "flash_attention_2"
    with compress(model, MERGED), pytest.raises(InputError, match="cannot weigh merged tokens"):
        model(**batch)
