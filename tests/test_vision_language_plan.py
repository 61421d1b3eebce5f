"""A plan for a vision-language model: its places, as JSON, and what is refused."""

import json

import pytest

from repshift import (
    ColumnAttention,
    Greedy,
    InputError,
    Keep,
    KeyNorm,
    LastQuery,
    Level,
    Merge,
    Plan,
    Random,
    Relevance,
    Shift,
    ToMe,
    VisionLanguagePlan,
    compress,
)
from repshift.adapters import describe
from vision_language_models import build

PLANS = [
    VisionLanguagePlan(),
    VisionLanguagePlan(prompt=Keep(0.25)),
    VisionLanguagePlan(prompt=Keep(64, Greedy(Relevance(), 0.5), merge=True)),
    VisionLanguagePlan(decoder=Plan({2: 0.3, 18: 40}, Shift("block"), Merge())),
    VisionLanguagePlan(
        tower=Plan({8: 0.3}, Shift("block")),
        prompt=Keep(0.5, Random(3)),
        decoder=Plan({2: 0.3}, KeyNorm()),
    ),
]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_json_reads_back_to_an_equal_plan(plan):
    assert VisionLanguagePlan.from_json(plan.to_json()) == plan
    assert json.loads(plan.identity) == json.loads(plan.to_json())


def test_parts_may_be_left_out():
    assert VisionLanguagePlan.from_json('{"prompt": {"keep": 0.25}}') == PLANS[1]
    text = '{"decoder": {"drop": {"2": 0.3}}, "provenance": "by hand"}'
    assert VisionLanguagePlan.from_json(text).decoder == Plan({2: 0.3})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "JSON object"),
        ('{"prompt": 0.25}', 'such as {"keep": 0.25}'),
        ('{"prompt": {"keep": 0.25, "drop": 3}}', "unknown keys drop"),
        ('{"prompts": {"keep": 0.25}}', "unknown keys prompts"),
        ('{"prompt": {"keep": 0.25, "merge": 1}}', "merge is 1"),
        ('{"prompt": {"keep": "half"}}', "Keep takes 'half'"),
        ('{"decoder": {"drop": {"2": {"level": 0.3}}}}', "a level does not go"),
    ],
)
def test_what_cannot_be_read_is_named(text, reason, unchecked):
    with pytest.raises(InputError) as error:
        VisionLanguagePlan.from_json(text)
    assert reason in str(error.value)


def test_a_saved_plan_is_loaded(tmp_path):
    plan = VisionLanguagePlan(prompt=Keep(0.25, merge=True), decoder=Plan({2: 0.3}, Shift("block")))
    plan.save(tmp_path / "plan.json")
    assert VisionLanguagePlan.load(tmp_path / "plan.json") == plan
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(InputError, match="plan.json: the plan is not JSON"):
        VisionLanguagePlan.load(tmp_path / "plan.json")


@pytest.mark.parametrize("amount", [0, 0.0, 1.5, -1, True, float("nan")])
def test_amounts(amount, unchecked):
    with pytest.raises(InputError, match="Keep takes"):
        Keep(amount)


def test_how_many_stay_is_a_function_of_the_grid():
    assert [Keep(0.25).of(count) for count in (1, 3, 4, 575, 576)] == [1, 1, 1, 144, 144]
    assert [Keep(0.1).of(count) for count in (30, 35)] == [3, 4]
    assert [Keep(128).of(count) for count in (64, 576)] == [64, 128]
    assert Keep(1.0).of(7) == 7


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Keep(0.5, ColumnAttention()), "neither among the projected tokens nor recorded"),
        (lambda: Keep(0.5, LastQuery()), "neither among the projected tokens nor recorded"),
        (lambda: VisionLanguagePlan(prompt=0.5), "expected a Keep"),
        (lambda: VisionLanguagePlan(decoder=Keep(0.5)), "expected a Plan"),
        (lambda: VisionLanguagePlan(decoder=Plan({1: Level(0.2)})), "a level does not go"),
        (lambda: VisionLanguagePlan(decoder=Plan({1: 0.2}, reduction=ToMe())), "order of tokens"),
        (lambda: VisionLanguagePlan(decoder=Plan({1: 0.2}, ColumnAttention())), "attention map"),
    ],
)
def test_what_does_not_fit_a_place(make, reason, unchecked):
    with pytest.raises(InputError) as error:
        make()
    assert reason in str(error.value)


def test_models_and_plans_that_do_not_fit():
    llava = build("llava")
    with pytest.raises(InputError, match="pass a VisionLanguagePlan"):
        compress(llava, Plan({1: 0.3}))
    for part in (llava, llava.model):
        with pytest.raises(InputError, match=r"as a whole: compress\(model, VisionLanguagePlan\("):
            describe(part)
    with pytest.raises(InputError, match="no vision-language model that repshift has read"):
        compress(llava.model.vision_tower, VisionLanguagePlan(prompt=Keep(0.5)))
    with pytest.raises(InputError, match="drops at block 8; this model has"):
        compress(llava, PLANS[-1])

    class Own(type(llava.model.language_model)):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    llava.model.language_model.__class__ = Own
    with pytest.raises(InputError, match="was not checked with its language model"):
        compress(llava, VisionLanguagePlan(prompt=Keep(0.5)))
