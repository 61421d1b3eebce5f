"""A plan at work in generate: beams, sampling, no cache, second turns, threads."""

import copy
import threading

import pytest
import torch
from transformers import DynamicCache

from repshift import Keep, Merge, Plan, Random, Redundancy, Shift, VisionLanguagePlan, compress
from vision_language_models import FAMILIES, IMAGE, QWEN, build, inputs, words

ALL = VisionLanguagePlan(prompt=Keep(1.0), decoder=Plan({1: 0.0}))
HALF = VisionLanguagePlan(prompt=Keep(0.5, Random(), merge=False))
BOTH = VisionLanguagePlan(
    prompt=Keep(0.5, Random(), merge=False), decoder=Plan({0: 0.3, 1: 0.3}, Shift("block"))
)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_where_nothing_drops_all_is_bit_equal_and_detaching_leaves_no_trace(family, kernel):
    model = build(family, kernel)
    batch = inputs(model, family, (1, 2))
    with torch.no_grad():
        dense = model(**batch)
        ids = model.generate(**batch, max_new_tokens=4, do_sample=False)
    before = _attached(model)
    with compress(model, ALL) as compression:
        with torch.no_grad():
            same = model(**batch)
        again = model.generate(**batch, max_new_tokens=4, do_sample=False)
        assert [len(compression.kept[image]) for image in range(3)] == [
            count["image"] for count in compression.counts
        ]
        kept, whole = compression.cache_bytes
        assert kept == whole > 0
    assert _attached(model) == before
    assert torch.equal(dense.logits, same.logits)
    assert torch.equal(ids, again)
    for one, other in zip(_cache(dense).layers, _cache(same).layers, strict=True):
        if hasattr(one, "keys"):
            assert torch.equal(one.keys, other.keys)
            assert torch.equal(one.values, other.values)


def _cache(output):
    return output.cache if "cache" in output else output.past_key_values


def _attached(model):
    """All hooks and all that stands beside a module's own attributes."""
    return {
        name: (
            sorted(set(vars(part)) & {"forward", "get_image_features", "_deepstack_process"}),
            len(part._forward_hooks),
            len(part._forward_pre_hooks),
        )
        for name, part in model.named_modules()
    }


@pytest.mark.parametrize("family", ["llava", "qwen2.5-vl", "qwen3-vl", "paligemma", "gemma3"])
@pytest.mark.parametrize("plan", [HALF, BOTH], ids=["prompt", "both"])
def test_a_written_loop_writes_what_generate_writes(family, plan):
    model = build(family)
    batch = inputs(model, family, (1,))
    with compress(model, plan), torch.no_grad():
        ids = model.generate(**batch, max_new_tokens=5, do_sample=False)[0, -5:].tolist()
        output = model(**batch)
        written = []
        for _ in range(5):
            written.append(int(output.logits[0, -1].argmax()))
            output = model(input_ids=torch.tensor([[written[-1]]]), cache=_cache(output))
    assert written == ids


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "qwen3.5"])
def test_a_second_turn_goes_on_from_the_cache(family):
    model = build(family)
    batch = inputs(model, family, (1,))
    more = torch.tensor([words(5, 50)])
    with compress(model, BOTH), torch.no_grad():
        first = model.generate(
            **batch, max_new_tokens=4, do_sample=False, return_dict_in_generate=True
        )
        full = torch.cat((first.sequences, more), dim=1)
        cache = copy.deepcopy(_cache(first))
        again = copy.deepcopy(cache)
        assert cache.get_seq_length() == full.shape[1] - 6  # the last word was not read yet
        mask = torch.ones_like(full)
        second = model.generate(
            input_ids=full, attention_mask=mask, cache=cache, max_new_tokens=4, do_sample=False
        )
        # What is new, read word by word.
        fresh = full[:, again.get_seq_length() :]
        for place in range(fresh.shape[1]):
            output = model(input_ids=fresh[:, place : place + 1], cache=again)
        written = []
        for _ in range(4):
            written.append(int(output.logits[0, -1].argmax()))
            output = model(input_ids=torch.tensor([[written[-1]]]), cache=again)
    assert second[0, -4:].tolist() == written


@pytest.mark.parametrize("family", ["llava", "qwen2.5-vl", "qwen3-vl", "smolvlm", "gemma3"])
@pytest.mark.parametrize("plan", [HALF, BOTH], ids=["prompt", "both"])
def test_beams_samples_and_no_cache(family, plan):
    model = build(family)
    batch = inputs(model, family, (1, 2))
    with compress(model, plan):
        greedy = model.generate(**batch, max_new_tokens=4, do_sample=False)
        uncached = model.generate(**batch, max_new_tokens=4, do_sample=False, use_cache=False)
        beams = model.generate(**batch, max_new_tokens=4, do_sample=False, num_beams=3)
        slow = model.generate(
            **batch, max_new_tokens=4, do_sample=False, num_beams=3, use_cache=False
        )
        torch.manual_seed(5)
        sampled = model.generate(**batch, max_new_tokens=4, do_sample=True)
        torch.manual_seed(5)
        same = model.generate(**batch, max_new_tokens=4, do_sample=True, use_cache=False)
    assert torch.equal(greedy, uncached)
    assert torch.equal(beams, slow)
    assert torch.equal(sampled, same)


@pytest.mark.parametrize("family", ["llava", "qwen3-vl"])
def test_lookup_decoding_crops_what_was_guessed(family):
    model = build(family)
    batch = inputs(model, family, (1,))
    with compress(model, BOTH):
        plain = model.generate(**batch, max_new_tokens=12, do_sample=False)
        guessed = model.generate(
            **batch, max_new_tokens=12, do_sample=False, prompt_lookup_num_tokens=3
        )
    assert torch.equal(plain, guessed)


# Not those that transformers refuses (qwen3.5), nor where the dense model too writes other words
# with a draft, since the first guesses are seen by the prompt (paligemma).
DRAFTED = [name for name in FAMILIES if name not in ("qwen3.5", "paligemma")]


@pytest.mark.parametrize("family", DRAFTED)
def test_a_draft_model_guesses_words(family):
    """Its first guesses are read with the prompt, and cropped off it."""
    model = build(family)
    draft = copy.deepcopy(model)
    for weight in draft.parameters():
        weight.data += 0.02 * weight.data.abs().mean() * torch.randn_like(weight)
    batch = inputs(model, family, (1,))
    settings = {"max_new_tokens": 8, "do_sample": False}
    with compress(model, BOTH) as compression:
        plain = model.generate(**batch, **settings)
        size = compression.cache_bytes
        guessed = model.generate(**batch, **settings, assistant_model=draft)
        assert compression.cache_bytes.dense - size.dense in (0, size.dense // plain.shape[1])
        with compress(draft, BOTH):
            both = model.generate(**batch, **settings, assistant_model=draft)
    assert torch.equal(plain, guessed)
    assert torch.equal(plain, both)


@pytest.mark.parametrize("family", ["llava", "qwen2.5-vl"])
def test_a_cache_cropped_into_the_question_goes_on_from_there(family):
    model = build(family)
    batch = inputs(model, family, (1, 2))
    plan = VisionLanguagePlan(
        prompt=Keep(0.5, Random(), merge=True), decoder=Plan({1: 0.5}, Random(), Merge())
    )
    more = torch.tensor([[7, 8, 9], [5, 6, 7]])
    mask = torch.cat((batch["attention_mask"], torch.ones(2, 1).long()), dim=1)
    short = {
        key: rows[:, :-3] if rows.shape == batch["input_ids"].shape else rows
        for key, rows in batch.items()
    }

    def go_on(cache):
        assert cache.get_seq_length() == short["input_ids"].shape[1]
        outputs = []
        for step in range(3):
            seen = mask[:, : short["input_ids"].shape[1] + step + 1]
            step = more[:, step : step + 1]
            outputs.append(model(input_ids=step, attention_mask=seen, cache=cache).logits)
        return torch.cat(outputs)

    with compress(model, plan), torch.no_grad():
        expected = go_on(_cache(model(**short)))
        cache = _cache(model(**batch))
        model(input_ids=more[:, :1], attention_mask=mask, cache=cache)
        cache.crop(-4)
        torch.testing.assert_close(go_on(cache), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["llava", "qwen2.5-vl", "gemma3"])
def test_several_answers_to_a_prompt(family):
    model = build(family)
    batch = inputs(model, family, (1, 2))
    settings = {"max_new_tokens": 4, "num_return_sequences": 2, "suppress_tokens": [IMAGE]}
    with compress(model, BOTH):
        for own in ({"do_sample": True}, {"do_sample": False, "num_beams": 3}):
            found = []
            for cached in (True, False):
                torch.manual_seed(5)
                found.append(model.generate(**batch, **settings, **own, use_cache=cached))
            assert found[0].shape[0] == 4
            assert torch.equal(*found)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_an_image_keeps_does_not_depend_on_its_batch(family):
    model = build(family)
    grids = [(8, 12), (4, 8), (12, 4)] if family in QWEN else None
    plan = VisionLanguagePlan(
        prompt=Keep(0.4, Redundancy("tokens"), merge=False), decoder=Plan({1: 0.4}, Shift("block"))
    )
    batch = inputs(model, family, (1, 2), grids)
    with compress(model, plan) as compression, torch.no_grad():
        model(**batch)
        together = [compression.kept[image].tolist() for image in range(3)]
        alone = {key: batch[key][:1] for key in ("input_ids", "attention_mask")}
        real = batch["attention_mask"][0] > 0
        alone = {key: value[:, real] for key, value in alone.items()}
        for key in ("token_type_ids", "mm_token_type_ids"):
            if key in batch:
                alone[key] = batch[key][:1, real]
        if family in QWEN:
            alone["image_grid_thw"] = batch["image_grid_thw"][:1]
            alone["pixel_values"] = batch["pixel_values"][: 8 * 12]
        else:
            alone |= {
                key: batch[key][:1] for key in ("pixel_values", "image_sizes") if key in batch
            }
        if family in ("idefics3", "smolvlm"):
            alone["pixel_values"] = alone["pixel_values"][:, :1]
        model(**alone)
        assert compression.kept[0].tolist() == together[0]


def test_prompts_one_after_another_and_without_an_image():
    model = build("qwen2.5-vl")
    first = inputs(model, "qwen2.5-vl", (1,))
    second = inputs(model, "qwen2.5-vl", (2,), [(4, 8), (8, 8)], seed=3)
    text = {"input_ids": torch.tensor([words(9)]), "attention_mask": torch.ones(1, 9).long()}
    dense = model.generate(**text, max_new_tokens=4, do_sample=False)
    with compress(model, BOTH) as compression:
        alone = [
            model.generate(**one, max_new_tokens=4, do_sample=False) for one in (first, second)
        ]
        outputs = []
        for one in (first, second):
            with torch.no_grad():
                outputs.append(model(**one))
        # The two go on in turn.
        written = [[], []]
        for _ in range(4):
            for at in (0, 1):
                written[at].append(int(outputs[at].logits[0, -1].argmax()))
                with torch.no_grad():
                    ids = torch.tensor([[written[at][-1]]])
                    outputs[at] = model(input_ids=ids, cache=_cache(outputs[at]), position_ids=None)
        assert [ids[0, -4:].tolist() for ids in alone] == written
        # The bytes are those of the last prompt, whatever goes on beside it.
        count = second["input_ids"].shape[1]
        assert compression.cache_bytes.dense == 4 * 2 * 2 * 16 * 4 * (count + 4)
        assert torch.equal(model.generate(**text, max_new_tokens=4, do_sample=False), dense)
        assert compression.counts == []


def test_threads_do_not_meet():
    model = build("llava")
    batches = [inputs(model, "llava", (1,)), inputs(model, "llava", (2,), seed=4)]
    with compress(model, BOTH) as compression:
        alone = [model.generate(**one, max_new_tokens=8, do_sample=False) for one in batches]
        found, counts = [None, None], [None, None]

        def work(at):
            for _ in range(3):
                found[at] = model.generate(**batches[at], max_new_tokens=8, do_sample=False)
                counts[at] = len(compression.counts)

        threads = [threading.Thread(target=work, args=(at,)) for at in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(map(torch.equal, alone, found))
    assert counts == [1, 2]


@pytest.mark.parametrize("family", ["llava", "qwen3-vl"])
def test_a_second_image_in_a_second_turn(family):
    """Equals the two images in one prompt, where each is decided by itself."""
    model = build(family)
    batch = inputs(model, family, (2,))
    ids = batch["input_ids"]
    # Cut before the second image.
    cut = int((ids[0] == 292).nonzero()[1])
    with compress(model, HALF) as compression, torch.no_grad():
        whole = model(**batch)
        positions = _positions(model, batch)
        part = {"input_ids": ids[:, :cut], "position_ids": positions[..., :cut]}
        rest = {"input_ids": ids[:, cut:], "position_ids": positions[..., cut:]}
        pixels, grid = batch["pixel_values"], batch.get("image_grid_thw")
        for at, one in enumerate((part, rest)):
            size = len(pixels) // 2
            one["pixel_values"] = pixels[at * size : (at + 1) * size]
            if grid is not None:
                one["image_grid_thw"] = grid[at : at + 1]
        cache = DynamicCache(config=model.model.language_model.config)
        model(**part, cache=cache)
        second = model(**rest, cache=cache)
        held = [layer.keys.shape[-2] for layer in cache.layers]
    assert held == [whole.logits.shape[1]] * 4
    torch.testing.assert_close(
        second.logits, whole.logits[:, -second.logits.shape[1] :], atol=1e-5, rtol=1e-4
    )
    assert len(compression.counts) == 1


def _positions(model, batch):
    if "image_grid_thw" not in batch:
        return torch.arange(batch["input_ids"].shape[1])[None]
    return model.model.get_rope_index(
        batch["input_ids"],
        mm_token_type_ids=batch["mm_token_type_ids"],
        image_grid_thw=batch["image_grid_thw"],
        attention_mask=batch["attention_mask"],
    )[0]


def test_the_cache_counts_what_it_holds():
    model = build("llava")
    batch = inputs(model, "llava", (1,))
    dense = batch["input_ids"].shape[1]
    with compress(model, BOTH) as compression:
        output = model.generate(
            **batch, max_new_tokens=3, do_sample=False, return_dict_in_generate=True
        )
    cache = _cache(output)
    # 16 tokens, 8 in the prompt, 30 % of them leave after layer 0 and again after layer 1.
    held = [layer.keys.shape[-2] for layer in cache.layers]
    assert held == [dense - 8 + 2, dense - 10 + 2, dense - 11 + 2, dense - 11 + 2]
    kept, whole = compression.cache_bytes
    one = 2 * 2 * 16 * 4  # keys and values of two heads of width 16 in float32
    assert kept == one * sum(held)
    assert whole == one * 4 * (dense + 2)
    assert compression.counts == [{"image": 16, "prompt": 8, "layer 0": 6, "layer 1": 5}]
