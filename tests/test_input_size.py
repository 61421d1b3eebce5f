"""The honest rival, a smaller input: the model that takes it, the row of a bench, the search."""

import copy
import functools
import json

import onnxruntime
import pytest
import timm
import torch
import transformers
from PIL import Image

from models import build
from repshift import (
    InputError,
    Plan,
    Random,
    Shift,
    ToMe,
    compress,
    resize_images,
    resized,
    search_plan,
)
from repshift.adapters import describe
from repshift.cli import options
from repshift.evaluation.models.vim.config import VimConfig
from repshift.evaluation.models.vim.model import VisionMamba
from repshift.evaluation.tasks.smaller_input import at_its_size, smaller_images
from repshift.evaluation.tasks.variants import DENSE_FUSED, fitted, variants, with_rival
from repshift.evaluation.zoo.offline import load
from repshift.input_size import image_sides
from repshift.measure.bootstrap import paired_interval
from repshift.measure.flops import count_flops
from repshift.search.cost_model import FlopsCost
from repshift.search.memo import Memo
from repshift.search.sizes import Sized, nearest_dense, smaller_sizes


def square(family="deit", side=80):
    return build(family, img_size=(side, side))


@torch.no_grad()
@pytest.mark.parametrize("family", ["deit", "dinov2 registers", "eva02", "dinov3"])
def test_timm_itself_resamples_the_positions_and_all_weights_are_shared(family):
    model = square(family)
    dense = model(torch.ones(1, 3, 80, 80))
    own = copy.deepcopy(model)
    own.set_input_size(img_size=64)
    twin, small = resized(model, 64), torch.randn(2, 3, 64, 64)
    assert torch.equal(twin(small), own(small))
    shared = {id(p) for p in model.parameters()}
    moved = [name for name, p in twin.named_parameters() if id(p) not in shared]
    assert set(moved) <= {"pos_embed"}
    assert torch.equal(model(torch.ones(1, 3, 80, 80)), dense)  # as it was
    with compress(twin, Plan({0: 0.25}, input_size=64)) as compression:
        twin(small)
    assert compression.counts[0] < 64 + model.num_prefix_tokens


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((None, 64), "the model is a NoneType; pass a torch.nn.Module"),
        ((square(), "64"), "the size of the images is '64'; expected a whole number from 1 up"),
        ((square(), 0), "the size of the images is 0; expected a whole number from 1 up"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_model_and_no_size_is_one_clear_line(given, message):
    with pytest.raises(InputError, match=message):
        resized(*given)


@pytest.mark.lowest
@torch.no_grad()
def test_transformers_interpolates_in_its_own_forward():
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        image_size=40, patch_size=8,
    )  # fmt: skip
    model = transformers.ViTModel(config).eval()
    small = torch.randn(2, 3, 24, 24)
    twin = resized(model, 24)
    expected = model(small, interpolate_pos_encoding=True).pooler_output
    assert torch.equal(twin(small).pooler_output, expected)
    assert torch.equal(copy.deepcopy(twin)(small).pooler_output, expected)
    with compress(twin, Plan({0: 2})) as compression:
        twin(pixel_values=small)
    assert compression.counts == [8, 8]


def test_what_takes_no_other_size_is_refused():
    vim = VisionMamba(VimConfig("tiny", 32, 2, 2, 8, 4))
    with pytest.raises(InputError, match="VisionMamba has no way to change the size"):
        resized(vim, 16)
    with pytest.raises(InputError, match="no images of 60 pixels, only of whole patches of 8"):
        resized(square(), 60)
    with pytest.raises(InputError, match="images of 8 pixels are one patch"):
        image_sides(square(), 8)
    assert resized(timm.create_model("resnet18"), 40) is not None


@torch.no_grad()
def test_a_plan_for_another_size_says_so():
    model, plan = square(), Plan({0: 0.3}, input_size=64)
    assert Plan.from_json(plan.to_json()) == plan != Plan({0: 0.3})
    assert hash(plan) != hash(Plan({0: 0.3}))
    with (
        compress(model, plan),
        pytest.raises(InputError, match=r"for images of 64 x 64 pixels, .* given 80 x 80"),
    ):
        model(torch.randn(1, 3, 80, 80))


@pytest.mark.parametrize("size", [0, -3, 1.5, True, "64"])
def test_a_size_that_is_none_is_refused(plain, size):
    with pytest.raises(plain.InputError, match="input_size is"):
        plain.Plan.from_json(json.dumps({"drop": {}, "input_size": size}))


@torch.no_grad()
def test_the_rival_costs_what_the_plans_do():
    model, images = square(), torch.randn(2, 3, 80, 80)
    plans = [Plan({0: 0.2}), Plan({0: 0.5, 1: 0.5}), Plan({0: 0.5, 1: 0.5}, reduction=ToMe())]
    rows, reason = smaller_images(model, describe(model), plans, images)
    assert reason == ""
    assert [row.schedule for row in rows] == sorted({row.schedule for row in rows}, reverse=True)
    sides = range(8, 80, 8)

    def cost(side):
        return count_flops(lambda: resized(model, side)(resize_images(images[:1], side)))[0]

    for plan in plans:
        with compress(model, plan):
            spent = count_flops(lambda: model(images[:1]))[0]
        nearest = min(sides, key=lambda side: abs(cost(side) - spent))
        assert f"{nearest} pixels" in {row.input for row in rows}
    every = with_rival(variants(describe(model), [("p", plans[0])], ["random"]), rows)
    assert [row.label for row in every[:3]] == [
        "dense, eager attention", "dense, fused attention", "dense, smaller input",
    ]  # fmt: skip
    assert rows[0].identities != DENSE_FUSED.identities
    assert rows[0].given(images).shape[-1] == int(rows[0].input.split()[0])


def test_a_model_that_takes_no_smaller_images_says_so():
    vim = VisionMamba(VimConfig("tiny", 32, 2, 2, 8, 4)).eval()
    side = 8 * 4
    rows, reason = smaller_images(
        vim, describe(vim), [Plan({0: 0.2}, Shift("mixer"))], torch.randn(1, 3, side, side)
    )
    assert rows == []
    assert "VisionMamba has no way" in reason
    assert smaller_images(square(), describe(square()), [], torch.randn(1, 3, 40, 56)) == (
        [], "its images are not square",
    )  # fmt: skip


def test_a_plan_found_for_smaller_images_is_a_row_like_others():
    model, images = square(), torch.randn(2, 3, 80, 80)
    [row] = [
        at_its_size(row, model)
        for row in variants(describe(model), [("found", Plan({0: 0.3}, input_size=64))], ["random"])
        if row.plans
    ]
    with row.attached(model, describe(model)) as compression, torch.no_grad():
        row.model(row.given(images))
    assert compression.counts[-1] == 1 + 64 - 19
    assert row.schedule == "found, 64 pixels"


def test_random_drops_on_smaller_images_are_of_five_seeds_like_others():
    plan = Plan({0: 0.3}, Random(), input_size=64)
    row = at_its_size(variants(describe(square()), [("found", plan)], ["random"])[-1], square())
    assert (row.label, row.schedule) == ("random, mean of 5 seeds", "found, 64 pixels")
    assert [one.score for one in row.plans] == [Random(seed) for seed in range(5)]
    assert {one.input_size for one in row.plans} == {64}


@torch.no_grad()
def test_the_nearest_size_is_that_of_counted_flops(monkeypatch):
    """Of few blocks and large patches: what lies outside the blocks is no fixed rest."""
    monkeypatch.setattr(Sized, "cost", functools.cache(Sized.cost))  # the same for every share
    model = build("deit", depth=2, img_size=64, patch_size=4, embed_dim=8)
    photos = torch.randn(1, 3, 64, 64)
    smaller = smaller_sizes(model, photos)

    sizes = {one: count_flops(lambda one=one: one.model(one.prepare(photos)))[0] for one in smaller}
    counted = FlopsCost(model, describe(model), photos, Memo(None, {}))
    full = count_flops(lambda: model(photos))[0]
    for percent in range(5, 100):
        share = percent / 100
        nearest = min(smaller, key=lambda one: abs(sizes[one] / full - share))
        assert nearest_dense(smaller, counted, share) is nearest, share
    assert nearest_dense([], counted, 0.5) is None


@pytest.mark.usefixtures("unchecked")  # as every search, in test_search.py
def test_a_search_tries_sizes_too_and_says_how_far_ahead_of_a_smaller_input_it_is():
    model, photos = build("deit", depth=3, img_size=64), torch.randn(6, 3, 64, 64)
    found = search_plan(model, photos, flops=0.6, methods=["tome", "random"], batch_size=3)
    sizes = {trial.plan.input_size for trial in found.tried}
    assert len(sizes) > 2
    assert None in sizes
    facts = found.provenance
    assert facts["flops"] <= 0.6
    rival = facts["smaller input"]
    assert abs(rival["flops"] - facts["flops"]) < 0.15
    difference = rival["difference"]
    assert difference["from"] <= difference["loss"] <= difference["to"]
    assert difference["loss"] == pytest.approx(facts["held_out"]["loss"] - rival["loss"])
    assert f"the dense model on {rival['pixels']} pixels" in found.summary()
    again = search_plan(model, photos, flops=0.6, methods=["tome", "random"], batch_size=3)
    assert again.to_json() == found.to_json()
    size = found.plan.input_size
    own = model if size is None else resized(model, size)
    with compress(own, found.plan), torch.no_grad():
        own(photos if size is None else resize_images(photos, size))


def test_the_interval_of_a_difference_is_that_of_the_pairs():
    ours = torch.rand(200, generator=torch.Generator().manual_seed(1))
    mean, low, high = paired_interval(ours, ours + 0.1)
    assert (round(mean, 6), round(low, 6), round(high, 6)) == (-0.1, -0.1, -0.1)
    noise = torch.randn(400, generator=torch.Generator().manual_seed(2))
    mean, low, high = paired_interval(noise, torch.zeros(400))
    error = noise.std().item() / 20
    assert low == pytest.approx(mean - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.2 * error)


def test_every_command_feeds_what_the_plan_is_for(run, tmp_path):
    (tmp_path / "plan.json").write_text(Plan({0: 0.25}, input_size=24).to_json())
    given = ["--model", "digits-vit", "--plan", "plan.json"]
    status, _, err = run("bench", *given, "--methods", "random", "--samples", 30, "--out", "out")
    assert status == 0, err
    rows = json.loads((tmp_path / "out" / "bench.json").read_text())["rows"]
    own = next(row for row in rows if row["method"] == "shift(mlp, l2)")
    assert own["tokens"] == 1 + 36 - 9
    assert "24 pixels" in own["plan"]
    assert any(row["method"] == "dense, smaller input" for row in rows)
    photo = Image.fromarray((torch.rand(40, 40) * 255).byte().numpy())
    photo.save(tmp_path / "a.png")
    status, _, err = run("show", "a.png", *given, "--out", "drawn.png")
    assert status == 0, err


@pytest.mark.parametrize(("name", "method"), [("digits-resnet", None), ("digits-vit", "tome")])
def test_a_size_stays_whatever_method_a_plan_is_given(name, method):
    """A plan that names no method gets one of the model, or that of --method."""
    plan = Plan({0: 0.25}, input_size=24)
    found = options.with_method(fitted(plan, describe(load(name).model)), method)
    assert found.input_size == 24
    assert found.reduction != plan.reduction
    mamba = fitted(plan, describe(load("digits-vim").model))
    assert (mamba.input_size, mamba.score) == (24, Shift("mixer"))


# Symbolic sizes do not go through the type checks.
@pytest.mark.usefixtures("plain", "one_registry")
def test_what_is_exported_takes_the_size_that_the_plan_is_for(run, own, tmp_path):
    (tmp_path / "plan.json").write_text(Plan({0: 0.25}, input_size=24).to_json())
    given = "--plan", "plan.json", "--model-args", "depth=1"
    status, out, err = run("export", own, *given, "--out", "a.onnx")
    assert status == 0, err
    assert "8 tokens kept" in out
    found = onnxruntime.InferenceSession(tmp_path / "a.onnx").get_inputs()[0].shape
    assert found[2:] == [24, 24]


def test_beside_an_edge_whole_numbers_do_not_turn_over():
    images = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    images[..., 16:] = 255
    expected = resize_images(images.float(), 24).clamp(0, 255).round()
    assert torch.equal(resize_images(images, 24), expected.byte())


def test_half_precision_is_resized_on_a_cpu_too():
    images = torch.randn(1, 3, 16, 16).bfloat16()
    resized_images = resize_images(images, 8)
    assert torch.equal(resized_images, resize_images(images.float(), 8).bfloat16())
