"""digits-vim on the command line: the rows that apply, and the class token in the pictures."""

import pytest
import torch

from repshift import InputError, Plan, Random, Shift
from repshift.adapters import describe
from repshift.evaluation.report.pictures import token_pictures
from repshift.evaluation.tasks.costs import measure_costs
from repshift.evaluation.tasks.variants import baseline, fitted, variants
from repshift.evaluation.zoo.digits import held_out_digits, load_digits_vit
from repshift.evaluation.zoo.load import load_model


@pytest.fixture(scope="module")
def loaded():
    return load_model("digits-vim")


def test_rows_without_attention(loaded):
    spec = describe(loaded.model)
    plan = fitted(Plan.from_schedule(loaded.plan), spec)
    assert plan.score == Shift("mixer")
    rows = variants(spec, [("x", plan)], ())
    assert [row.label for row in rows] == [
        "dense",
        "clipped-activation",
        "random, mean of 5 seeds",
        "shift(mixer, l2, update)",
        "shift(mixer, l2)",
    ]
    assert baseline(rows).label == "dense"
    # A plan with a method of its own stays as it is, and is a row more.
    own = Plan(plan.drop, Random(7))
    assert fitted(own, spec) == own
    assert len(variants(spec, [("x", own)], ())) == 6


def test_a_transformer_keeps_its_rows():
    spec = describe(load_digits_vit())
    plan = Plan({0: 0.2})
    assert fitted(plan, spec) == plan
    rows = variants(spec, [("x", plan)], ())
    assert [row.label for row in rows][:3] == [
        "dense, eager attention",
        "dense, fused attention",
        "class-attention",
    ]
    assert baseline(rows).label == "dense, fused attention"
    assert str(Shift()) == rows[-1].label


def test_costs_are_measured_against_the_dense_model(loaded):
    spec = describe(loaded.model)
    rows = variants(spec, [("x", Plan({0: 0.5}, Shift("mixer")))], ["shift(mixer)"])
    costs = measure_costs(
        loaded.model, spec, rows, held_out_digits()[0][:2], rounds=2, seconds=0.01
    )
    dense, shift = costs[rows[0]], costs[rows[1]]
    assert (dense.tokens, shift.tokens) == (65, 33)
    assert (dense.kernel, dense.speedup_vs_eager, dense.speedup_vs_fused) == ("none", None, 1)
    assert shift.gflops < 0.65 * dense.gflops


def test_pictures_leave_the_class_token_out(loaded):
    images = held_out_digits()[0][:2]
    figures = token_pictures(
        loaded, describe(loaded.model), Plan({0: 60}, Shift("mixer")), images, ["a", "b"]
    )
    for figure in figures:
        photo, heat, left = (axes.images[0].get_array() for axes in figure.axes)
        assert heat.shape == (8, 8)
        grey = torch.from_numpy(left).view(8, 4, 8, 4, 3).sub(0.82).abs().amax((1, 3, 4)) < 1e-6
        assert (~grey).sum() == 4  # of 64 patches
        assert photo.shape == left.shape


def test_an_image_file_can_be_prepared(loaded):
    from PIL import Image

    assert loaded.prepare(Image.new("RGB", (50, 40))).shape == (1, 32, 32)
    assert (loaded.classes, loaded.grid) == (10, (8, 8))
    with pytest.raises(InputError, match="brings its own weights"):
        load_model("digits-vim", random_weights=True)
