"""What cannot be right is refused, never wrong in silence."""

import copy
import pickle

import pytest
import torch
from transformers import DynamicCache, StaticCache

from repshift import (
    Greedy,
    InputError,
    Keep,
    LastQuery,
    Plan,
    Random,
    Relevance,
    Shift,
    VisionLanguagePlan,
    compress,
)
from vision_language_models import build, inputs, words
from vision_language_oracle import language_of

HALF = VisionLanguagePlan(prompt=Keep(0.5, Random()))
DECODER = VisionLanguagePlan(decoder=Plan({1: 0.5}, Shift("block")))
PLANS = pytest.mark.parametrize("plan", [HALF, DECODER], ids=["prompt", "decoder"])


@PLANS
def test_a_static_cache(plan):
    model = build("llava")
    batch = inputs(model, "llava", (1,))
    with compress(model, plan), pytest.raises(InputError, match="StaticCache has a place"):
        model.generate(**batch, max_new_tokens=2, cache_implementation="static")
    config = language_of(model).config
    cache = StaticCache(config=config, max_cache_len=64)
    with compress(model, plan), pytest.raises(InputError, match="StaticCache has a place"):
        model(**batch, cache=cache)


@PLANS
def test_windows_shorter_than_the_text(plan):
    model = build("gemma3")
    language_of(model).config.sliding_window = 24
    batch = inputs(model, "gemma3", (1,))  # 27 tokens
    with compress(model, plan), pytest.raises(InputError, match="looks back 24 tokens"):
        model.generate(**batch, max_new_tokens=2)
    language_of(model).config.sliding_window = 28
    with compress(model, plan), pytest.raises(InputError, match="this text has 29"):
        model.generate(**batch, max_new_tokens=8, do_sample=False)


@PLANS
def test_a_prompt_in_chunks(plan):
    model = build("qwen2.5-vl")
    batch = inputs(model, "qwen2.5-vl", (1,))
    with compress(model, plan), pytest.raises(InputError, match="prefill_chunk_size"):
        model.generate(**batch, max_new_tokens=2, prefill_chunk_size=8)


@PLANS
def test_a_cache_under_another_plan_and_none(plan):
    model = build("llava")
    batch = inputs(model, "llava", (1,))
    word = torch.tensor([[7]])
    with compress(model, plan), torch.no_grad():
        cache = model(**batch).cache
    with pytest.raises(InputError, match="detached by now"):
        model(input_ids=word, cache=cache)
    with compress(model, HALF), pytest.raises(InputError, match="another plan|detached by now"):
        model(input_ids=word, cache=cache)
    cache.reset()
    assert type(cache) is DynamicCache
    with torch.no_grad():
        model(input_ids=word, cache=cache)


def test_a_cache_cropped_into_the_prompt_repeated_and_of_another_batch():
    model = build("llava")
    batch = inputs(model, "llava", (1,))
    word = torch.tensor([[7]])
    with compress(model, DECODER), torch.no_grad():
        output = model(**batch)
        cache = output.cache
        with pytest.raises(InputError, match="holds 1 prompts and the call has 2"):
            model(input_ids=word.expand(2, 1), cache=cache)
        once = model(input_ids=word, cache=cache).logits
        cache.crop(-1)
        cache.batch_repeat_interleave(3)
        thrice = model(input_ids=word.expand(3, 1), cache=cache).logits
        torch.testing.assert_close(thrice, once.expand(3, -1, -1), atol=1e-6, rtol=1e-5)
        cache.crop(-1)
        cache.batch_select_indices(torch.tensor([1]))
        torch.testing.assert_close(
            model(input_ids=word, cache=cache).logits, once, atol=1e-6, rtol=1e-5
        )
        width = cache.layers[0].keys.shape[-2]
        with pytest.raises(InputError, match="up to the 7 behind the last image"):
            cache.crop(-9)
        assert cache.layers[0].keys.shape[-2] == width
        for layer in cache.layers:
            layer.crop(-4)
        with pytest.raises(InputError, match=r"crop it by cache\.crop"):
            model(input_ids=word, cache=cache)


def test_a_crop_that_transformers_refuses_leaves_the_cache_as_it_was():
    model = build("llava")
    batch = inputs(model, "llava", (1,))
    with compress(model, HALF), torch.no_grad():
        cache = model(**batch).cache
        seen = cache.get_seq_length()
        with pytest.raises(ValueError, match="negative"):
            cache.crop(2)
        assert cache.get_seq_length() == seen
        assert cache.repshift.kept.shape[1] == cache.layers[0].keys.shape[2]


def test_a_cache_is_copied_and_never_pickled():
    model = build("llava")
    with compress(model, DECODER), torch.no_grad():
        cache = model(**inputs(model, "llava", (1,))).cache
        with pytest.raises(InputError, match="cannot be pickled"):
            pickle.dumps(cache)
        branch, same = copy.deepcopy(cache), copy.copy(cache)
        written = [
            [model(input_ids=torch.tensor([[word]]), cache=one).logits for word in (11, 12)]
            for one in (cache, branch)
        ]
        assert torch.equal(torch.cat(written[0]), torch.cat(written[1]))
        assert same.get_seq_length() == cache.get_seq_length()


@pytest.mark.parametrize(
    "plan",
    [
        VisionLanguagePlan(prompt=Keep(0.5, Greedy(Relevance()))),
        VisionLanguagePlan(decoder=Plan({1: 0.5}, LastQuery())),
    ],
    ids=["prompt", "decoder"],
)
def test_guesses_behind_a_prompt_are_not_its_words(plan):
    model = build("llava")
    batch = inputs(model, "llava", (1,))
    with compress(model, plan), torch.no_grad():
        model(**batch, logits_to_keep=1)
        with pytest.raises(InputError, match="may be guesses"):
            model.generate(**batch, max_new_tokens=4, assistant_model=build("llava"))


def test_rows_of_a_padded_batch_may_be_reordered():
    model = build("llava")
    batch = inputs(model, "llava", (1, 2))
    turned = torch.tensor([1, 0])
    more = torch.tensor([[7], [8]])
    mask = torch.cat((batch["attention_mask"], torch.ones(2, 1).long()), dim=1)
    plan = VisionLanguagePlan(prompt=Keep(0.5, Random(), merge=True))
    with compress(model, plan), torch.no_grad():
        plain = model(input_ids=more, cache=model(**batch).cache, attention_mask=mask).logits
        cache = model(**batch).cache
        cache.reorder_cache(turned)
        other = model(input_ids=more[turned], cache=cache, attention_mask=mask[turned]).logits
    torch.testing.assert_close(other[turned], plain, atol=1e-6, rtol=1e-5)


def test_a_mask_of_another_length():
    model = build("llava")
    batch = inputs(model, "llava", (1,))
    with compress(model, HALF), torch.no_grad():
        cache = model(**batch).cache
        with pytest.raises(InputError, match="has 5 columns; expected 28"):
            model(input_ids=torch.tensor([[7]]), cache=cache, attention_mask=torch.ones(1, 5))


@PLANS
def test_labels_maps_and_checkpointing(plan):
    model = build("llava", "eager")
    batch = inputs(model, "llava", (1,))
    with compress(model, plan) as compression:
        with pytest.raises(InputError, match="labels stand for all tokens"):
            model(**batch, labels=batch["input_ids"])
        with pytest.raises(InputError, match="output_attentions"):
            model(**batch, output_attentions=True)
        with pytest.raises(InputError, match="no prompt has been read"):
            compression.counts  # noqa: B018
        text = torch.tensor([words(6)])
        assert model(input_ids=text, labels=text).loss > 0
        model.train()
        model.activation_checkpointing_enable()
        with pytest.raises(InputError, match="gradient checkpointing"):
            model(**batch)


@PLANS
@torch.no_grad()
def test_logits_of_tokens_that_may_have_left(plan):
    model = build("llava")
    batch = inputs(model, "llava", (1, 1))
    count = batch["input_ids"].shape[1]
    with compress(model, plan) as compression:
        every = model(**batch).logits
        assert compression.columns[0, -4:].tolist() == list(range(count - 4, count))
        for kept in (4, torch.tensor([-4, -1])):
            own = [-4, -1] if isinstance(kept, torch.Tensor) else slice(-4, None)
            assert torch.equal(model(**batch, logits_to_keep=kept).logits, every[:, own])
        asked = (count - 3, count, -1, torch.tensor([2, 10]), torch.tensor([count - 1]))
        for kept in (*asked, torch.tensor([-count, -1])):
            with pytest.raises(InputError, match="logits_to_keep counts the tokens of the dense"):
                model(**batch, logits_to_keep=kept)
        right = {**batch, "attention_mask": torch.ones(2, count).long()}
        right["attention_mask"][0, -2:] = 0
        with pytest.raises(InputError, match="before any padding"):
            model(**right, logits_to_keep=4)
        text = torch.tensor([words(6)])
        assert model(input_ids=text, logits_to_keep=torch.tensor([1, 3])).logits.shape[1] == 2


def test_images_without_ids_and_ids_of_another_prompt():
    model = build("llava")
    batch = inputs(model, "llava", (1,))
    with compress(model, HALF), torch.no_grad():
        embeds = model.get_input_embeddings()(batch["input_ids"])
        with pytest.raises(InputError, match="pass input_ids"):
            model(inputs_embeds=embeds, pixel_values=batch["pixel_values"])


def test_a_language_model_by_itself():
    model = build("llava")
    batch = inputs(model, "llava", (1,))
    embeds = torch.randn(1, 3, 64)
    with torch.no_grad():
        dense = language_of(model)(inputs_embeds=embeds).last_hidden_state
        with compress(model, HALF):
            same = language_of(model)(inputs_embeds=embeds).last_hidden_state
            assert torch.equal(dense, same)
            cache = model(**batch).cache
            with pytest.raises(InputError, match="call the whole model"):
                language_of(model)(inputs_embeds=embeds, cache=cache)


def test_an_image_in_a_later_turn_of_a_model_that_looks_both_ways():
    model = build("paligemma")
    batch = inputs(model, "paligemma", (1,))
    with compress(model, HALF), torch.no_grad():
        cache = model(**batch).cache
        batch.pop("attention_mask")
        with pytest.raises(InputError, match="begin a new conversation for a new image"):
            model(**batch, cache=cache)


def test_nan_is_named():
    model = build("llava")
    batch = inputs(model, "llava", (1,))
    batch["pixel_values"][0, 0, 0, 0] = torch.nan
    with compress(model, DECODER), pytest.raises(InputError, match="is NaN after layer 1"):
        model(**batch)


def test_the_old_name_of_the_cache():
    model = build("llava")
    batch = inputs(model, "llava", (1,))
    config = language_of(model).config
    with compress(model, HALF), torch.no_grad(), pytest.warns(FutureWarning):
        old = model(**batch, past_key_values=DynamicCache(config=config)).logits
    with compress(model, HALF), torch.no_grad():
        assert torch.equal(old, model(**batch, cache=DynamicCache(config=config)).logits)


def test_another_plan_takes_the_place_of_the_first():
    model = build("llava")
    batch = inputs(model, "llava", (1,))
    first = compress(model, HALF)
    second = compress(model.model, DECODER)
    assert not first._handles
    with torch.no_grad():
        model(**batch)
    assert second.counts == [{"image": 16, "layer 1": 8}]
    second.detach()
