"""Plans in one line, without data: late schedules and a share of the FLOPs."""

import doctest
import importlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import build, images
from repshift import InputError, Plan, Prune, Redundancy, Shift, ToMe, compress
from repshift.measure.flops import count_flops
from repshift.schedules import block_macs, fewest, inflected, late, spread


def flops(share, **sizes):
    return Plan.for_flops(share, **{"depth": 12, "patches": 64, "width": 64, **sizes})


SHAPE = st.lists(st.floats(0, 5), min_size=1, max_size=15).filter(lambda shape: sum(shape) > 0.1)


def test_the_examples_in_the_docstrings_hold():
    # By its module's name: the tests import the package anew.
    assert doctest.testmod(importlib.import_module("repshift.plan")).attempted == 3
    assert doctest.testmod(importlib.import_module("repshift.plan")).failed == 0


@given(st.integers(2, 40), st.integers(0, 400), st.sampled_from([0.0, 0.5, 1.0, 2.0]))
def test_a_late_plan_drops_what_it_says_and_ever_more(depth, leaving, power):
    plan = Plan.late(depth, leaving, power)
    counts = [plan.drop.get(block, 0) for block in range(depth)]
    assert sum(counts) == leaving
    assert counts[-1] == 0
    # Rounded running totals: a count may fall short of the one before it by one token.
    assert all(later >= earlier - 1 for earlier, later in pairwise(counts[:-1]))


def test_power_zero_is_constant_and_two_is_late():
    assert set(Plan.late(13, 96, 0).drop.values()) == {8}
    later = Plan.late(12, 66, 2).drop
    assert sum(later[block] for block in range(6, 11)) > 2 * 66 / 3


@pytest.mark.parametrize(
    ("depth", "r", "inflection", "numbers"),
    [
        (4, 6, 0, [6, 6, 6, 6]),
        (4, 5, -1, [10, 6, 3, 0]),  # 10, 6 2/3, 3 1/3, 0
        (4, 5, 1, [0, 3, 6, 10]),
        (5, 8, 0.5, [4, 6, 8, 10, 12]),
        (5, 8, -0.5, [12, 10, 8, 6, 4]),
        (3, 5, 0.3, [3, 5, 7]),  # from int(3.5)
        (2, 7, -1, [14, 0]),
        (1, 7, -1, [7]),
        (12, 8, 0.0, [8] * 12),
        (12, 16, -1, [32, 29, 26, 23, 20, 17, 14, 11, 8, 5, 2, 0]),
        (12, 15, 1, [0, 2, 5, 8, 10, 13, 16, 19, 21, 24, 27, 30]),
        (6, 0, 1, [0] * 6),
        (4, 6.0, 0, [6, 6, 6, 6]),
    ],
)
def test_tomes_schedules_worked_out_by_hand(depth, r, inflection, numbers):
    assert inflected(depth, r, inflection) == numbers
    plan = Plan.tome(depth, r, inflection)
    assert plan == Plan({at: n for at, n in enumerate(numbers) if n}, reduction=ToMe())
    assert all(type(amount) is int for amount in plan.drop.values())


@given(st.integers(2, 50), st.integers(0, 100), st.floats(-1, 1))
def test_tomes_schedules_are_its_formula(depth, r, inflection):
    numbers = inflected(depth, r, inflection)
    low = int(r * (1 - inflection))
    high = 2 * r - low
    assert numbers == [int(low + i * (high - low) / (depth - 1)) for i in range(depth)]
    assert (numbers[0], numbers[-1]) == (low, high)
    # Rounded down, so on average up to one below r.
    assert depth * r - depth < sum(numbers) <= depth * r


def test_tomes_token_counts():
    assert Plan.tome(12, 8).entering(13, 196)[-1] == 101 - 1
    assert Plan.tome(12, 13).entering(13, 196)[-1] == 41 - 1
    assert [n + 1 for n in Plan.tome(12, 16).entering(13, 196)][-2:] == [21, 11]
    model, photos = build("deit"), images()
    with compress(model, Plan.tome(4, 5, -1)) as compression:
        model(photos)
    assert compression.counts == [26, 20, 17, 17]
    assert Plan.tome(4, 5, 1, Redundancy("keys"), Prune()).method == "redundancy(keys)"


@given(st.integers(0, 500), SHAPE)
def test_spreading_is_right_within_half_a_token_and_grows(leaving, shape):
    def totals(leaving):
        drop = spread(leaving, shape)
        assert all(count > 0 for count in drop.values())
        return [sum(n for at, n in drop.items() if at <= block) for block in range(len(shape))]

    found = totals(leaving)
    assert found[-1] == leaving
    for block, total in enumerate(found):
        assert abs(total - leaving * sum(shape[: block + 1]) / sum(shape)) <= 0.5 + 1e-6
    assert all(more >= less for more, less in zip(totals(leaving + 1), found, strict=True))


@given(st.integers(0, 50), st.integers(0, 60))
def test_fewest_finds_what_a_search_one_by_one_finds(first, most):
    slow = next((n for n in range(most + 1) if n >= first), None)
    assert fewest(lambda n: n >= first, most) == slow


@pytest.mark.parametrize("family", ["deit", "augreg"])
def test_the_analytic_cost_of_the_blocks_is_what_is_counted(family):
    model, photos = build(family), images(batch=1)
    tokens = model.cls_token.new_zeros(1, 36, 32)
    flops, _ = count_flops(lambda: model.blocks[0](tokens))
    ratio = model.blocks[0].mlp.fc1.out_features / 32
    assert flops == block_macs(36, 32, ratio)
    with compress(model, Plan({0: 9})) as compression:
        model(photos)
    assert compression.counts[-1] == 27


@pytest.mark.parametrize("share", [0.9, 0.75, 0.65])
@pytest.mark.parametrize("power", [0.0, 1.0])
def test_the_flops_are_reached_within_one_token(share, power):
    sizes = {"depth": 12, "patches": 196, "width": 384}
    plan = Plan.for_flops(share, **sizes, power=power)

    def cost(leaving):
        drop = Plan.late(12, leaving, power).drop
        tokens, total = 197, 0
        for block in range(12):
            total += block_macs(tokens, 384)
            tokens -= drop.get(block, 0)
        return total / (12 * block_macs(197, 384))

    leaving = sum(plan.drop.values())
    assert cost(leaving) <= share < cost(leaving - 1)


def test_the_method_is_taken_over():
    assert Plan.late(12, 40, score=Redundancy("keys")).score == Redundancy("keys")
    assert Plan.late(12, 40, reduction=ToMe()).method == "tome"
    sizes = {"depth": 12, "patches": 64, "width": 64}
    assert Plan.for_flops(0.8, **sizes, score=Shift("block")).score == Shift("block")
    assert Plan.for_flops(1.0, **sizes).drop == {}


def test_entering_counts_what_the_blocks_get():
    plan = Plan({0: 0.2, 3: 0.2, 6: 0.2, 11: 5})
    assert plan.entering(12, 196) == [196] + [157] * 3 + [126] * 3 + [101] * 5
    assert Plan({0: 30}, reduction=ToMe()).entering(2, 40) == [40, 20]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Plan.late(1, 5), "number of blocks, is 1; expected a whole number from 2 up"),
        (lambda: Plan.late(12.5, 5), "number of blocks, is 12.5; expected a whole number"),
        (lambda: Plan.late(12, -5), "that leave is -5; expected a whole number from 0 up"),
        (lambda: Plan.late(12, 5.5), "that leave is 5.5; expected a whole number from 0 up"),
        (lambda: Plan.late(12, 5, -1), "power of a late schedule is -1"),
        (lambda: Plan.late(12, 5, float("inf")), "power of a late schedule is inf"),
        (lambda: Plan.late(12, 5, "2"), "power of a late schedule is '2'"),
        (lambda: Plan.tome(0, 5), "number of blocks, is 0; expected a whole number from 1 up"),
        (lambda: Plan.tome("12", 5), "number of blocks, is '12'; expected a whole number"),
        (lambda: Plan.tome(12, -1), "r is -1; expected a whole number from 0 up"),
        (lambda: Plan.tome(12, 2.5), "r is 2.5; expected a whole number"),
        (lambda: Plan.tome(12, float("nan")), "r is nan; expected a whole number"),
        (lambda: Plan.tome(12, float("inf")), "r is inf; expected a whole number"),
        (lambda: Plan.tome(12, 5, 1.5), "the inflection is 1.5; expected -1 .* to 1"),
        (lambda: Plan.tome(12, 5, -1.01), "the inflection is -1.01; expected"),
        (lambda: Plan.tome(12, 5, float("nan")), "the inflection is nan; expected"),
        (lambda: spread(3, [0.0, 0.0]), "needs a positive sum"),
        (lambda: Plan.for_flops(1.5, depth=12, patches=64, width=64), "is 1.5; expected above 0"),
        (lambda: flops("0.5"), "share of the FLOPs is '0.5'; expected above 0, at most 1"),
        (lambda: flops(0.5, width=0), "width is 0; expected a whole number from 1 up"),
        (lambda: flops(0.5, width=-4), "width is -4; expected a whole number from 1 up"),
        (lambda: flops(0.5, patches=0), "patches is 0; expected a whole number from 1 up"),
        (lambda: flops(0.5, prefix=-1), "prefix is -1; expected a whole number from 0 up"),
        (lambda: flops(0.5, mlp_ratio=-4), "mlp_ratio is -4; expected a number from 0 up"),
        (
            lambda: Plan.for_flops(0.3, depth=12, patches=64, width=64),
            "no late plan of power 1 costs 0.3 of the dense FLOPs: with one patch left it is",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_late_shapes_end_with_nothing():
    assert late(4, 1) == [0.25, 0.5, 0.75, 0.0]


def test_provenance_changes_nothing():
    text = '{"drop": {"0": 3}, "provenance": {"seed": 1}}'
    assert Plan.from_json(text) == Plan({0: 3})
