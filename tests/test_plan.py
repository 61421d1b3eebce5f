"""Plans: what they drop, how they are written and read, and what they refuse."""

import json
import math
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from repshift import (
    Greedy,
    InputError,
    Level,
    Merge,
    PerRowAndColumn,
    Plan,
    Prune,
    Random,
    Reverse,
    RowsAndColumns,
    Shift,
    ToMe,
)
from repshift.method import from_label
from repshift.plan_given import as_plan
from repshift.reductions import Reduction
from repshift.registry import registered
from repshift.scores import Score

SCORES, REDUCTIONS = registered(Score), registered(Reduction)


def drawn_from(known):
    """Every listed method with every setting its types allow."""
    return st.one_of(
        st.builds(kind, **{field.name: ... for field in fields(kind)})
        for kind in known.values()
        if kind not in (Reverse, Greedy)
    )


PLAIN, REDUCTION = drawn_from(SCORES), drawn_from(REDUCTIONS)
SCORE = PLAIN | st.builds(Reverse, PLAIN) | st.builds(Greedy, PLAIN, st.floats(0, 9))
SHARE = st.floats(0, 1, exclude_max=True, allow_subnormal=False)
DROP = st.dictionaries(st.integers(0, 99), st.one_of(SHARE, st.integers(0, 500)))


@given(DROP, SCORE, REDUCTION)
def test_json_reads_back_to_an_equal_plan(drop, score, reduction):
    given = {"score": score} if reduction.scored else {}
    plan = Plan(drop, **given, reduction=reduction)
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert hash(again) == hash(plan)
    assert list(map(type, again.drop.values())) == list(map(type, plan.drop.values()))


@given(DROP.filter(bool))
@example({0: 1e-05})
def test_a_schedule_reads_back_to_an_equal_plan(drop):
    assert Plan.from_schedule(Plan(drop).schedule) == Plan(drop)


@given(SCORE)
def test_a_label_reads_back_to_an_equal_score(score):
    assert from_label(SCORES, str(score)) == score


def test_a_label_without_values_takes_the_defaults():
    assert from_label(SCORES, " shift ") == Shift()
    assert from_label(SCORES, "shift(block)") == Shift("block")
    assert from_label(REDUCTIONS, str(Prune())) == Prune()


def test_score_and_reduction_may_be_left_out_of_the_json():
    assert Plan.from_json('{"drop": {"3": 0.2}}') == Plan({3: 0.2}, Shift("mlp", "l2"), Prune())


def test_blocks_are_ordered_however_they_were_given():
    assert list(Plan({6: 0.1, 0: 5}).drop) == [0, 6]
    assert Plan.from_schedule(" 6:0.1, 0:5").schedule == "0:5,6:0.1"


@given(SCORE, REDUCTION)
def test_a_method_reads_back_to_an_equal_plan(score, reduction):
    plan = Plan({0: 3}, score if reduction.scored else Shift(), reduction)
    assert Plan.from_method(plan.method, {0: 3}) == plan


def test_the_method_names_score_and_reduction():
    assert Plan({}, Random(3)).method == "random(3)"
    merging = Plan({}, Reverse(Shift("block")), Merge("plain"))
    assert merging.method == "reverse(shift(block, l2)) + merge(plain)"
    assert Plan({}, reduction=ToMe()).method == "tome"
    with pytest.raises(InputError, match=r"tome asks no score; leave random\(3\) out"):
        Plan.from_method("random(3) + tome", {})
    assert Plan.from_method("merge", {}) == Plan({}, Shift(), Merge())
    assert Plan.from_method(" random(3)+prune ", {}) == Plan({}, Random(3))


@pytest.mark.parametrize(
    ("name", "drop"),
    [
        ("deit", {0: 0.2, 3: 0.2, 6: 0.2}),
        ("umt-retrieval", {0: 0.2, 1: 0.2, 2: 0.2}),
        ("umt-qa", {0: 0.1, 1: 0.1, 2: 0.1}),
    ],
)
def test_the_papers_plans(name, drop):
    assert Plan.paper(name) == Plan(drop, Shift("mlp", "l2", "printed"), Prune())


@pytest.mark.parametrize(
    ("name", "patches", "left"),
    [
        ("deit", 196, [157, 126, 101]),
        ("umt-retrieval", 2352, [1882, 1506, 1205]),
        ("umt-qa", 2352, [2117, 1906, 1716]),
    ],
)
def test_the_papers_token_counts(name, patches, left):
    plan, found = Plan.paper(name), []
    for block in plan.drop:
        patches -= plan.leaving(block, patches)
        found.append(patches)
    assert found == left


@given(SHARE, st.integers(1, 5000))
def test_a_share_drops_its_floor_and_leaves_one(share, patches):
    leaving = Plan({2: share}).leaving(2, patches)
    assert leaving == math.floor(share * patches) < patches


def test_a_count_drops_itself_and_other_blocks_nothing():
    plan = Plan({0: 0.5, 2: 7})
    assert [plan.leaving(block, 8) for block in range(4)] == [4, 0, 7, 0]


def test_a_count_that_leaves_nothing_is_refused():
    with pytest.raises(InputError, match="drops 8 of the 8 patch tokens at block 2"):
        Plan({0: 0.1, 2: 8}).leaving(2, 8)


@pytest.mark.parametrize(
    ("amount", "message"),
    [
        (1.5, r"share of 1.5; a share is below 1 \(for a number of tokens write 1\)"),
        (1.0, "share of 1.0"),
        (math.inf, "share of inf"),
        (-0.1, "drops -0.1; expected a share from 0 to below 1 or a whole number"),
        (-3, "drops -3"),
        (math.nan, "drops nan"),
        (True, "drops True"),
        ("0.2", "drops '0.2'"),
        (None, "drops None"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_an_amount_that_is_no_share_and_no_count_is_refused(amount, message):
    with pytest.raises(InputError, match=message):
        Plan({4: amount})
    with pytest.raises(InputError, match=message):
        Plan.from_json(json.dumps({"drop": {"4": amount}}))


@pytest.mark.parametrize("block", [-1, "x", 1.0, True, None])
@pytest.mark.usefixtures("unchecked")
def test_a_block_that_is_no_number_is_refused(block):
    with pytest.raises(InputError, match=f"block {block!r} of the plan is not a whole number"):
        Plan({block: 0.2})


@pytest.mark.parametrize("drop", [0.2, None, "deit", [0.2, 0.2]])
@pytest.mark.usefixtures("unchecked")
def test_what_says_of_no_block_how_much_is_dropped_is_refused(drop):
    with pytest.raises(InputError, match=r"such as Plan\({0: 0.2, 3: 40}\); got"):
        Plan(drop)


@pytest.mark.parametrize(
    "read", [Plan.from_schedule, Plan.from_json, lambda x: Plan.from_method(x, {})]
)
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_text_is_not_read(read):
    with pytest.raises(InputError, match="got None; expected"):
        read(None)


@pytest.mark.usefixtures("unchecked")
def test_numbers_of_numpy_and_pytorch_become_plain_ones():
    numbers = np.int64(0), np.int32(3), torch.tensor(7), np.float32(0.5), np.float64(0.25)
    first, count, last, half, quarter = numbers
    plan = Plan({first: count, last: half, np.uint8(2): quarter}, input_size=np.int64(64))
    assert json.loads(plan.to_json())["drop"] == {"0": 3, "2": 0.25, "7": 0.5}
    assert plan == Plan({0: 3, 2: 0.25, 7: 0.5}, input_size=64)
    assert {type(value) for value in (*plan.drop, *plan.drop.values())} == {int, float}
    assert Plan.late(np.int64(12), np.int16(99), np.float32(2)) == Plan.late(12, 99, 2)
    assert type(Level(np.float32(0.5)).value) is float


@pytest.mark.usefixtures("unchecked")
def test_a_score_that_is_only_a_name_is_refused():
    with pytest.raises(InputError, match="takes a Score and a Reduction, got str and Prune"):
        Plan({}, "shift")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0:0.2,", "cannot read ''"),
        ("0", "cannot read '0' of the plan '0'; write block:share or block:count"),
        ("0:", "cannot read '0:'"),
        ("0:many", "cannot read '0:many'"),
        ("0:nan", "block 0 drops nan"),
        ("x:0.2", "block 'x' of the plan is not a whole number"),
        ("-1:0.2", "block -1 of the plan"),
        ("0:1.5", "share of 1.5"),
        ("0:-0.1", "drops -0.1"),
        ("3:0.2,0:0.1, 3:7", "drops block 3 twice"),
    ],
)
def test_a_schedule_that_cannot_be_read_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        Plan.from_schedule(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("drop: 3", "not JSON"),
        ("[1]", 'a plan is a JSON object with "drop"'),
        ('{"score": {"name": "shift"}}', 'a plan is a JSON object with "drop"'),
        ('{"drop": [0.2]}', 'a plan is a JSON object with "drop"'),
        ('{"drop": {}, "when": 1, "how": 2}', "unknown keys how, when"),
        ('{"drop": {"0": 0.2, "0": 0.3}}', "gives '0' twice"),
        ('{"drop": {"0": 0.2, "00": 0.3}}', "block 0 twice"),
        ('{"drop": {"x": 0.2}}', "block 'x' of the plan is not a whole number"),
        ('{"drop": {"-1": 0.2}}', "block -1 of the plan"),
        ('{"drop": {}, "score": "shift"}', "got 'shift', expected an object"),
        ('{"drop": {}, "score": {}}', "None is not one of attention-entropy, border"),
        ('{"drop": {}, "score": {"name": "x"}}', "'x' is not one of attention-entropy"),
        (
            '{"drop": {}, "reduction": {"name": "shift"}}',
            "'shift' is not one of merge, per-row-and-column, prune, rows-and-columns",
        ),
        ('{"drop": {}, "score": {"name": "shift", "sit": "mlp"}}', "no setting sit; it takes site"),
        ('{"drop": {}, "reduction": {"name": "prune", "r": 1}}', "no setting r; it takes none"),
        ('{"drop": {}, "score": {"name": "shift", "site": "x"}}', "'x' is not one of mlp"),
        ('{"drop": {}, "score": {"name": "random", "seed": "x"}}', "seed cannot be 'x'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_json_that_is_no_plan_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        Plan.from_json(text)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("", "cannot read ''"),
        ("shift(mlp", "cannot read"),
        ("shift(mlp,,l2)", "'' is not one of l2, l1, cosine"),
        ("shift(,)", "'' is not one of mlp, attention"),
        ("random(1,)", "has 2 values; random takes 1"),
        ("norm", "'norm' is not one of"),
        ("prune(1)", "'prune' is not one of"),
        ("shift(mlp, l2, printed, 3)", "4 values; shift takes 3"),
        ("shift(head)", "'head' is not one of mlp, attention, block"),
        ("random(x)", "seed cannot be 'x'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_label_that_cannot_be_read_is_refused(label, message):
    with pytest.raises(InputError, match=message):
        from_label(SCORES, label)


def test_an_unknown_paper_plan_is_refused():
    with pytest.raises(InputError, match="unknown plan 'vit'; the papers' are deit, umt-retrieval"):
        Plan.paper("vit")


def test_a_saved_plan_is_loaded_with_how_it_was_found(tmp_path):
    path = tmp_path / "plans" / "plan.json"
    plan = Plan({3: 0.2}, Reverse(Shift()), input_size=64).found({"seed": 3})
    plan.save(path)
    again = Plan.load(str(path))
    assert (again, again.provenance) == (plan, {"seed": 3})
    again.save(path)
    assert json.loads(path.read_text())["provenance"] == {"seed": 3}
    assert plan == Plan({3: 0.2}, Reverse(Shift()), input_size=64)
    assert plan.identity == Plan({3: 0.2}, Reverse(Shift()), input_size=64).identity
    changed = replace(again, drop={0: 1})
    assert changed.provenance is None  # it was not found so
    path.write_text('{"drop": 3}')
    with pytest.raises(InputError, match=r'plan.json: a plan is a JSON object with "drop"'):
        Plan.load(path)
    with pytest.raises(InputError, match="none.json cannot be read: No such file"):
        Plan.load(tmp_path / "none.json")


def test_what_can_be_passed_as_a_plan(tmp_path):
    plan = Plan({0: 0.2, 3: 20})
    plan.save(tmp_path / "plan.json")
    for one in (plan, {0: 0.2, 3: 20}, "0:0.2,3:20", str(tmp_path / "plan.json")):
        assert as_plan(one) == plan
    assert as_plan(tmp_path / "plan.json") == plan
    assert as_plan("deit") == Plan.paper("deit")


@pytest.mark.parametrize("given", [None, 3, 0.2, [0.2], Shift()])
@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_passed_as_a_plan(given):
    with pytest.raises(InputError, match="pass a Plan, its name such as 'deit', its file, or"):
        as_plan(given)


def test_a_plan_cannot_be_changed():
    with pytest.raises(AttributeError):
        Plan({}).drop = {}


@pytest.mark.parametrize(
    ("old", "reduction"), [("lines", RowsAndColumns()), ("line-tokens", PerRowAndColumn())]
)
def test_a_file_of_version_0_1_is_read_and_written_by_the_new_name(old, reduction):
    plan = Plan.from_json(json.dumps({"drop": {"0": 2}, "reduction": {"name": old}}))
    assert plan == Plan({0: 2}, reduction=reduction)
    assert json.loads(plan.to_json())["reduction"] == {"name": reduction.name}
    with pytest.raises(InputError, match=f"'{old}' is not one of"):
        Plan.from_method(f"shift(block) + {old}", {0: 2})


def test_a_plan_that_no_file_could_name_is_not_saved(tmp_path):
    @dataclass(frozen=True)
    class Nameless(Score):
        name: ClassVar[str] = "nameless"

    for score in (Nameless(), Reverse(Nameless())):
        with pytest.raises(InputError, match="nameless is not registered"):
            Plan({0: 0.5}, score).save(tmp_path / "plan.json")
    assert not list(tmp_path.iterdir())
