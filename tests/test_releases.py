"""What is too old is said when a model is compressed; what has moved is found where it was."""

import pytest
import torch
from torch import nn

import vision_language_models
import vision_towers
from repshift import InputError, Plan, VisionLanguagePlan, compress
from repshift.adapters.transformers import release
from repshift.adapters.transformers.describe import _at
from repshift.evaluation.models.checkpoint import read_state_dict
from repshift.vision_language.plan import Keep


def test_vision_language_models_need_transformers_5_23(monkeypatch):
    monkeypatch.setattr(release, "version", lambda name: "4.57.6")
    model = vision_language_models.build("llava")
    with pytest.raises(InputError, match=r"needs transformers 5.23 or newer, and 4.57.6 is inst"):
        compress(model, VisionLanguagePlan(prompt=Keep(0.25)))
    tower = vision_towers.packed_tower("qwen2 vl")
    with pytest.raises(InputError, match=r"tower Qwen2Vision.* needs transformers 5.23 or newer"):
        compress(tower, Plan({0: 0.5}))


@pytest.mark.parametrize(
    ("installed", "new"), [("5.23.0", True), ("5.100.1", True), ("5.3.0", False), ("6.0", True)]
)
def test_releases_are_compared_by_number(monkeypatch, installed, new):
    monkeypatch.setattr(release, "version", lambda name: installed)
    if new:
        release.check_release("it", "5.23")
    else:
        with pytest.raises(InputError):
            release.check_release("it", "5.23")


def test_the_newest_place_of_a_part_is_taken_first():
    model = nn.ModuleDict({"layers": nn.Linear(1, 1), "old": nn.Linear(2, 2)})
    assert _at(model, "layers|old").in_features == 1
    assert _at(model, "none|old").in_features == 2
    with pytest.raises(InputError, match="ModuleDict has no none or nothing; .* 4.56 to 5.24"):
        _at(model, "none|nothing")


def test_of_several_containers_the_averaged_weights_are_read(tmp_path):
    inner = {"model_ema": {"state_dict": {"a": torch.ones(1)}}, "model": {"a": torch.zeros(1)}}
    torch.save({"epoch": 3, **inner}, tmp_path / "w.pth")
    assert read_state_dict(tmp_path / "w.pth")["a"].item() == 1
