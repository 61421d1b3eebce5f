"""Models of digits: the split stays fixed, the packaged weights are good, a bad file is named."""

import hashlib
import sys

import pytest
import torch

from repshift import InputError
from repshift.evaluation.zoo import digits
from repshift.evaluation.zoo.packaged import weights_file


def test_the_split_is_fixed_and_in_proportion():
    (seen, seen_labels), (images, labels) = digits.training_digits(), digits.held_out_digits()
    assert seen.shape == (1257, 1, 32, 32)
    assert images.shape == (540, 1, 32, 32)
    for pictures, classes in ((seen, seen_labels), (images, labels)):
        assert (pictures.dtype, classes.dtype) == (torch.float32, torch.int64)
        assert (pictures.min(), pictures.max()) == (-1, 1)
    assert labels.bincount().tolist() == [54, 55, 53, 55, 54, 55, 54, 54, 52, 54]
    # The 1,797 pictures are all different, so an equal one would be a picture in both parts.
    assert len(torch.cat((seen, images)).flatten(1).unique(dim=0)) == 1797
    # Another draw, by another release of scikit-learn, would test the weights on what they saw.
    order = hashlib.sha256(bytes(labels.tolist())).hexdigest()
    assert order[:16] == "2517ebe19e694c16"


LOADERS = {
    "digits-vit": digits.load_digits_vit,
    "digits-vim": digits.load_digits_vim,
    "digits-resnet": digits.load_digits_resnet,
}
each_model = pytest.mark.parametrize("name", LOADERS)


@each_model
def test_the_packaged_weights_read_unseen_digits(name):
    images, labels = digits.held_out_digits()
    model = LOADERS[name]()
    assert not model.training
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    with torch.inference_mode():
        right = model(images).argmax(1) == labels
    assert right.float().mean() >= 0.97


@each_model
def test_the_packaged_weights_are_small(name):
    assert len(weights_file(f"{name}.safetensors").read_bytes()) < 2_000_000


@each_model
@pytest.mark.parametrize("damage", ["missing", "cut short", "a key less", "a key more"])
def test_a_bad_weight_file_is_named(monkeypatch, tmp_path, name, damage):
    from safetensors.torch import load, save

    good = weights_file(f"{name}.safetensors").read_bytes()
    weights = load(good)
    file = tmp_path / f"{name}.safetensors"
    if damage == "cut short":
        file.write_bytes(good[:1000])
    elif damage == "a key less":
        weights.pop(min(weights))  # safetensors gives keys in no order
        file.write_bytes(save(weights))
    elif damage == "a key more":
        file.write_bytes(save(weights | {"extra": torch.zeros(1)}))
    monkeypatch.setattr(digits, "weights_file", lambda name: tmp_path / name)
    with pytest.raises(InputError, match=rf"{name}\.safetensors.*install repshift-zoo again"):
        LOADERS[name]()


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(InputError, match=r"pip install repshift\[bench\]"):
        digits.held_out_digits()


def test_without_repshift_zoo_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr("repshift.evaluation.zoo.packaged.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"repshift-zoo; .*pip install \./zoo"):
        digits.load_digits_vit()
