"""The search for a plan: its result, its shortcuts against slow ways, its file."""

import json
import math
import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from models import SAMPLE, build, images, score_for
from repshift import InputError, Merge, Plan, Random, Redundancy, Shift, ToMe, compress, search_plan
from repshift.adapters import describe
from repshift.evaluation.data.batches import FileSource, MemorySource, draw
from repshift.evaluation.report.tried import plot_tried
from repshift.evaluation.zoo.digits import load_digits_vit, training_digits
from repshift.measure.fidelity import feature_fidelity, logit_fidelity
from repshift.measure.flops import count_flops
from repshift.search.candidates import METHODS, Search, Trial, closed_forms
from repshift.search.cost_model import FlopsCost, TimeCost
from repshift.search.fidelity_meter import FidelityMeter, differs_from, read_out
from repshift.search.memo import Memo
from repshift.search.search_plan import SearchResult

# A search runs a model hundreds of times; that shapes are right is tested elsewhere.
pytestmark = pytest.mark.usefixtures("unchecked")
QUICK = ["shift(mlp, l2)", "redundancy(mlp) + merge"]


@pytest.fixture
def digits():
    return load_digits_vit(), training_digits()[0][:12]


@pytest.fixture
def small():
    """Four blocks of 35 patches: a whole search takes a second."""
    return build("deit"), images(batch=8)


def search_on(model, photos, memo=None, cost=FlopsCost, objective="kl"):
    memo, spec = memo or Memo(None, {}), describe(model)
    meter = FidelityMeter(model, spec, photos, objective, 8)
    return Search(meter, cost(model, spec, photos[:1], memo), memo)


# The fidelity meter: a forward that begins where another left off is the whole forward.

PAIRS = [
    ({0: 5, 2: 3}, {0: 5, 2: 4}),
    ({0: 5, 1: 3}, {0: 5}),
    ({}, {2: 6}),
    ({2: 4}, {0: 2, 2: 4}),
    ({1: 4}, {1: 4}),
]
METHOD_PLANS = [
    Plan({}),
    Plan({}, Redundancy("keys")),
    Plan({}, Shift(), Merge()),
    Plan({}, reduction=ToMe()),
]


@pytest.mark.parametrize("method", METHOD_PLANS, ids=lambda plan: plan.method)
@pytest.mark.parametrize(("base", "other"), PAIRS)
@pytest.mark.parametrize("family", ["deit", "eva02", "average pooling"])
def test_sharing_a_beginning_is_bit_equal_to_running_all(family, base, other, method):
    model, photos = build(family), images(batch=4)
    base, plan = (Plan(drop, method.score, method.reduction) for drop in (base, other))
    meter = FidelityMeter(model, describe(model), photos, "kl", 4)
    meter.start_from(base)
    found = meter.outputs(plan)
    with compress(model, plan), torch.inference_mode():
        expected = model(photos)
    assert torch.equal(found, expected)


def test_blocks_of_the_beginning_do_not_run_and_are_as_before(digits):
    model, photos = digits
    meter, ran = FidelityMeter(model, describe(model), photos, "kl", 6), []
    meter.start_from(Plan({3: 10}))
    hooks = [
        block.mlp.register_forward_hook(lambda *_, index=index: ran.append(index))
        for index, block in enumerate(model.blocks)
    ]
    meter.rate(Plan({3: 10, 9: 5}))
    assert ran == [9, 10, 11] * 2
    ran.clear()
    meter.rate(Plan({3: 10, 9: 5}, Redundancy()), batches=1)
    assert ran == list(range(3, 12))
    for hook in hooks:
        hook.remove()
    assert all("forward" not in vars(block) for block in model.blocks)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("base", "plan", "first"),
    [
        (Plan({0: 3, 4: 2}), Plan({0: 3, 4: 1}), 4),
        (Plan({0: 3, 4: 2}), Plan({0: 3}), 4),
        (Plan({0: 0}), Plan({5: 1}), 5),
        (Plan({4: 2}), Plan({4: 2}, Random()), 4),
        (Plan({4: 2}), Plan({1: 2}, Random()), 1),
        (Plan({4: 2}), Plan({4: 2}), 0),
    ],
)
def test_where_plans_part(base, plan, first):
    assert differs_from(base, plan) == first


def test_a_rating_is_the_fidelity_of_the_bench(digits):
    model, photos = digits
    plan = Plan({0: 20, 6: 20}, Random())
    with torch.inference_mode():
        dense = model(photos)
        with compress(model, plan):
            output = model(photos)
    kl, agreement = FidelityMeter(model, describe(model), photos, "kl", 7).rate(plan)
    expected = logit_fidelity(dense, output)
    assert (kl, agreement) == pytest.approx((expected.kl, expected.value), rel=1e-4)
    distance, cosine = FidelityMeter(model, describe(model), photos, "cosine", 7).rate(plan)
    assert cosine == pytest.approx(feature_fidelity(dense, output).value, rel=1e-5)
    assert distance == pytest.approx(1 - cosine)


def test_what_a_model_returns_is_read():
    class Output:
        logits = torch.ones(2, 3)
        pooler_output = None

    assert read_out(Output()) is Output.logits
    assert read_out(Output.logits) is Output.logits
    with pytest.raises(InputError, match=r"returned Tensor of shape \[2, 5, 3\]"):
        read_out(torch.ones(2, 5, 3))
    with pytest.raises(InputError, match="returned tuple"):
        read_out((torch.ones(2, 3),))


# The cost model.


@pytest.mark.parametrize("family", SAMPLE)
def test_flops_by_table_are_those_counted(family):
    model, photos = build(family), images(batch=1)
    cost = FlopsCost(model, describe(model), photos, Memo(None, {}))
    plan = Plan({0: 9, 2: 4}, score_for(family))

    def count(plan):
        with compress(model, plan):
            return count_flops(lambda: model(photos))[0]

    assert cost.measure(plan) == count(plan) / count(Plan({}))
    assert cost.measure(Plan({})) == 1.0
    assert cost(Plan({})) == pytest.approx(1)
    # Choosing the stand-ins of what was pruned costs, too; few channels make it weigh.
    assert cost(plan) == pytest.approx(cost.measure(plan), rel=0.05)
    cost.correct(plan)
    assert cost(plan) == pytest.approx(cost.measure(plan))
    near = Plan({0: 9, 2: 5}, score_for(family))
    assert cost(near) == pytest.approx(cost.measure(near), rel=0.005)
    assert cost(near) < cost(plan)


def test_seconds_come_from_block_times(digits, monkeypatch):
    model, photos = digits
    monkeypatch.setattr(TimeCost, "rounds", 2)
    memo = Memo(None, {})
    cost = TimeCost(model, describe(model), photos[:4], memo)
    assert cost.counts == [8, 16, 24, 32, 40, 48, 56, 64]
    assert len(cost.table) == 8
    assert all(time > 0 for time in cost.table)
    assert cost(Plan({})) == pytest.approx(1)
    plan = Plan({0: 32}, Random())
    expected = (cost.rest + cost.table[7] + 11 * cost.table[3]) / cost.dense
    assert cost(plan) == pytest.approx(expected)
    memo.known[f"seconds of {plan.identity}"] = 0.8
    cost.correct(plan)
    assert cost(plan) == pytest.approx(0.8)
    assert cost.meets(plan, 0.81)
    assert not cost.meets(plan, 0.85)
    again = TimeCost(model, describe(model), photos[:4], memo)
    assert again.table is cost.table


# The search.


def test_fitting_takes_the_fewest_tokens(digits):
    search = search_on(*digits)
    for shape in closed_forms(12):
        plan = search.fit(Plan({}, Redundancy("keys")), shape, 0.8)
        share = search.cost.measure(plan)
        assert 0.8 - 1.5 / 64 < share <= 0.8
    assert search.fit(Plan({}), closed_forms(12)[2], 0.2) is None


@pytest.mark.slow
def test_an_exchange_keeps_the_cost_and_lowers_the_loss(digits):
    search = search_on(*digits)
    start = search.rate(search.fit(Plan({}), closed_forms(12)[1], 0.7))
    better = search.exchange(start, 0.7)
    assert better.loss < start.loss
    assert search.cost.measure(better.plan) <= 0.7
    assert better.loss == min(trial.loss for trial in search.tried if trial.share >= 0.69)


def test_two_blocks_have_nothing_to_exchange():
    found = search_plan(build("deit", depth=2), images(batch=8), flops=0.8, methods=["random"])
    assert list(found.plan.drop) == [0]
    assert found.provenance["flops"] <= 0.8


def test_few_patches_have_little_to_spare():
    """Of the smallest input one patch is left, and no plan comes down to half of the cost."""
    model, photos = build("deit", img_size=32, patch_size=16), torch.randn(6, 3, 32, 32)
    found = search_plan(model, photos, flops=0.85, methods=["random"])
    assert found.provenance["flops"] <= 0.85
    cheapest = search_plan(model, photos, fidelity=1e-9, methods=["random"])
    assert cheapest.provenance["flops"] < found.provenance["flops"]
    one, photo = build("deit", img_size=16, patch_size=16), torch.randn(4, 3, 16, 16)
    assert search_plan(one, photo, fidelity=0.5, methods=["random"]).provenance["flops"] == 1.0


def test_where_nothing_keeps_the_fidelity_the_model_stays_dense():
    model = build("deit", num_classes=0)
    found = search_plan(model, images(8), fidelity=1.0, objective="cosine", methods=["random"])
    assert found.plan.acting == []
    assert found.provenance["flops"] == 1.0


@pytest.mark.parametrize("objective", ["kl", "cosine"])
def test_a_plan_by_which_the_model_gives_nan_is_the_worst(small, monkeypatch, objective):
    """As float16 may, where only the last block overflows. The first class is that of no image."""
    model, photos = small
    outputs = FidelityMeter.outputs

    def spoilt(meter, plan, *arguments, **settings):
        found = outputs(meter, plan, *arguments, **settings)
        return found * torch.nan if plan.acting and plan.score == Random() else found

    monkeypatch.setattr(FidelityMeter, "outputs", spoilt)
    settings = {"methods": ["random", "key-norm"], "objective": objective}
    found = search_plan(model, photos, flops=0.7, **settings)
    assert str(found.plan.score) == "key-norm"
    spoilt = [trial for trial in found.tried if trial.plan.score == Random() and trial.plan.acting]
    assert {(trial.loss, trial.fidelity) for trial in spoilt} <= {(math.inf, 0.0)}
    cheapest = search_plan(model, photos, fidelity=1e-6, **settings)
    assert str(cheapest.plan.score) == "key-norm"


def test_successive_halving_finds_the_best_of_all(digits):
    model, photos = digits
    search = search_on(model, photos)
    methods = [Plan.from_method(label, {}) for label in ("random", *QUICK)]
    search.methods = methods
    best = search.best_start(0.7)
    every = [search.fit(method, shape, 0.7) for method in methods for shape in closed_forms(12)]
    losses = [search.rate(plan).loss for plan in every if plan is not None]
    assert best.loss == min(losses)
    assert best.plan.method == "redundancy(mlp) + merge"


def test_more_tokens_than_there_are_cannot_leave(digits):
    search = search_on(*digits)
    assert search._moved(Plan({0: 60}), 3, 4) is None
    assert search._moved(Plan({0: 30}), 3, 4) == Plan({0: 30, 3: 4})
    assert search._moved(Plan({0: 30}, reduction=ToMe()), 0, 4) is None


@pytest.mark.slow
def test_a_found_plan_beats_where_it_started_on_images_it_never_saw(digits):
    model, photos = digits
    found = search_plan(model, photos, flops=0.65, methods=QUICK[1:], batch_size=6)
    assert 0.62 < found.provenance["flops"] <= 0.65
    unseen = FidelityMeter(model, describe(model), training_digits()[0][100:160], "kl", 60)
    search = search_on(model, photos)
    paper = search.fit(Plan({}), closed_forms(12)[0], 0.65)
    assert unseen.rate(found.plan)[0] < unseen.rate(paper)[0] / 3


def test_provenance_tells_where_the_plan_comes_from(small, monkeypatch):
    model, photos = small
    found = search_plan(model, photos, flops=0.7, methods=QUICK[1:], batch_size=4, name="digits")
    again = search_plan(model, photos, flops=0.7, methods=QUICK[1:], batch_size=4, name="digits")
    assert found.to_json() == again.to_json()
    assert Plan.from_json(found.to_json()) == found.plan
    facts = json.loads(found.to_json())["provenance"]
    assert found.plan.provenance == found.provenance
    assert facts["model"] == "digits"
    assert facts["target"] == {"flops": 0.7}
    assert (facts["images"], facts["seed"], facts["threads"]) == (8, 0, 1)
    assert facts["versions"].keys() == {"python", "torch", "timm", "repshift"}
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    unseen = FidelityMeter(model, describe(model), photos[order[:4]], "kl", 4)
    loss, agreement = unseen.rate(found.plan)
    assert facts["held_out"] == {"loss": pytest.approx(loss), "fidelity": agreement}
    monkeypatch.setattr("repshift.search.candidates.PATIENCE", 1)
    other = search_plan(model, photos + 0.01, flops=0.7, methods=QUICK[1:], batch_size=4)
    assert other.provenance["data"] != facts["data"]
    assert other.provenance["weights"] == facts["weights"]


@pytest.mark.slow
def test_a_fidelity_is_kept_at_the_least_cost(digits):
    search = search_on(*digits)
    method = Plan({}, Shift(definition="update"))
    search.methods = [method]
    kept = search.least_cost(0.9)
    assert kept.fidelity >= 0.9
    assert kept.share < 0.8
    every = search.least_cost(1.0)
    assert every.fidelity == 1
    assert kept.share < every.share < 1
    # One more token, spread the same way, was tried and is one too many.
    more = sum(every.plan.drop.values()) + 1
    tried = [trial for trial in search.tried if sum(trial.plan.drop.values()) == more]
    assert min(trial.fidelity for trial in tried) < 1


def test_a_speed_is_met_by_measuring(small, monkeypatch):
    model, photos = small
    shares = []

    def run(cost, plan):
        """A machine on which every step costs 2 % of the dense model."""
        if not plan.drop:
            return 1.0, 4 * 0.035
        shares.append(plan)
        without = cost(plan) - cost.steps.get(replace(plan, drop={}), 0) * len(plan.drop)
        return without + 0.02 * len(plan.drop), 1.0

    monkeypatch.setattr(TimeCost, "_each", lambda cost, counts, run: [c / 1000 for c in counts])
    monkeypatch.setattr(TimeCost, "_run", run)
    found = search_plan(model, photos, speedup=1.3, methods=["shift(mlp, l2)"], batch_size=4)
    assert found.provenance["measured_speedup"] == pytest.approx(1.3, rel=0.031)
    assert found.provenance["promised"]["speedup"] == 1.3
    assert len(shares) < 6  # a measurement takes seconds


def test_a_method_that_is_too_slow_for_the_target_makes_way(small, monkeypatch):
    model, photos = small

    def run(cost, plan):
        """A machine on which a merging step costs more than it can save."""
        if not plan.drop:
            return 1.0, 4 * 0.035
        share = cost(plan) - cost.steps.get(replace(plan, drop={}), 0) * len(plan.drop)
        return share + 0.5 * plan.reduction.proportional_attention * len(plan.drop), 1.0

    monkeypatch.setattr(TimeCost, "_each", lambda cost, counts, run: [c / 1000 for c in counts])
    monkeypatch.setattr(TimeCost, "_run", run)
    methods = ["shift(mlp, l2, update) + merge", "shift(mlp, l2, update)"]
    found = search_plan(model, photos, speedup=1.3, methods=methods, batch_size=4)
    assert found.plan.method == methods[1]
    assert found.provenance["measured_speedup"] == pytest.approx(1.3, rel=0.031)
    with pytest.raises(InputError, match=r"no plan ran at 0\.77 .* the fastest that was tried"):
        search_plan(model, photos, speedup=1.3, methods=methods[:1], batch_size=4)


def test_features_are_compared_by_their_cosine(small):
    model, photos = small
    model.head = nn.Identity()
    found = search_plan(
        model, photos, flops=0.8, objective="cosine", methods=["redundancy(keys)"], batch_size=4
    )
    held_out = found.provenance["held_out"]
    assert held_out["loss"] == pytest.approx(1 - held_out["fidelity"])
    assert held_out["fidelity"] > 0.8
    assert "1 - cosine" in found.summary()


def test_default_methods_leave_out_what_a_model_cannot(monkeypatch):
    monkeypatch.setattr("repshift.search.candidates.PATIENCE", 1)
    model = build("parallel scaling")
    found = search_plan(model, images(batch=4), flops=0.8, batch_size=2)
    labels = {trial.plan.method.replace("random(0)", "random") for trial in found.tried}
    of_mlp = {label for label in METHODS if "mlp" in label}
    assert labels <= set(METHODS) - {"tome"} - of_mlp


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "one target, flops .* got none"),
        ({"flops": 0.6, "speedup": 2.0}, "got flops, speedup"),
        ({"flops": 1.5}, "flops is 1.5; expected above 0"),
        ({"fidelity": 0.0}, "fidelity is 0.0"),
        ({"speedup": 0.5}, "speedup is 0.5; expected above 1"),
        ({"flops": 0.05}, "no schedule brings the cost down to 0.05"),
        ({"flops": 0.7, "methods": ["norm"]}, "'norm' is not one of"),
        ({"flops": 0.7, "objective": "KL"}, "objective: 'KL' is not one of kl, cosine"),
        ({"flops": 0.7, "budget": "level"}, "budget: 'level' is not one of fixed, adaptive"),
        ({"flops": 0.7, "batch_size": 0}, "batch_size is 0; expected a whole number from 1 up"),
    ],
)
def test_what_cannot_be_asked_for(small, settings, message):
    model, photos = small
    with pytest.raises(InputError, match=message):
        search_plan(model, photos, **{"methods": ["random"], **settings})


def test_a_model_that_drops_at_random_is_compared_with_nothing(small):
    _, photos = small
    model = build("deit", proj_drop_rate=0.2).train()
    with pytest.raises(InputError, match=r"call model.eval\(\) first"):
        search_plan(model, photos, flops=0.7)


def test_one_image_or_block_is_too_few(small):
    model, photos = small
    with pytest.raises(InputError, match="2 images or more, got 1"):
        search_plan(model, photos[:1], flops=0.7)
    with pytest.raises(InputError, match="2 blocks or more"):
        search_plan(build("deit", depth=1), images(), flops=0.7)


# What it tells.


def test_progress_is_told_of_every_plan_that_was_tried(small):
    model, photos = small
    told = []
    found = search_plan(
        model,
        photos,
        flops=0.7,
        methods=["random"],
        progress=told.append,
    )
    assert len(told) >= len(found.tried)
    assert all("random" in text and "loss" in text for text in told)


# The state of a search.


def test_a_stopped_search_goes_on(small, tmp_path, monkeypatch):
    model, photos = small
    state, rate, measured = tmp_path / "plan.search.json", FidelityMeter.rate, []
    settings = {"flops": 0.7, "methods": QUICK, "batch_size": 4, "state": state}

    def counting(meter, *arguments):
        if len(measured) == stop:
            raise KeyboardInterrupt
        measured.append(arguments)
        return rate(meter, *arguments)

    monkeypatch.setattr(FidelityMeter, "rate", counting)
    stop = -1
    whole = search_plan(model, photos, **settings)
    asked = len(measured)
    state.unlink()
    stop = len(measured) + 7
    with pytest.raises(KeyboardInterrupt):
        search_plan(model, photos, **settings)
    assert state.exists()
    stop = -1
    again = search_plan(model, photos, **settings)
    assert again == whole
    assert len(measured) == 2 * asked  # nothing was measured twice
    # It is deleted by whoever writes the result: until then nothing is lost.
    stop = len(measured)
    assert search_plan(model, photos, **settings) == whole


def test_a_model_of_the_same_weights_and_other_settings_does_not_go_on(tmp_path):
    """Pooled otherwise, a timm model has the same weights in the same order by another name."""
    model, photos, state = build("augreg"), images(batch=8), tmp_path / "plan.search.json"
    other = build("augreg", global_pool="avg")
    renamed = {key.replace("fc_norm.", "norm."): key for key in other.state_dict()}
    weights = model.state_dict().items()
    other.load_state_dict({renamed[key]: value for key, value in weights}, strict=False)
    settings = {"flops": 0.7, "methods": ["random"], "name": "mine"}
    search_plan(model, photos, **settings, state=state)
    alone = search_plan(other, photos, **settings)
    assert search_plan(other, photos, **settings, state=state) == alone


def test_images_held_out_run_once_for_each_plan(monkeypatch):
    model, photos = build("deit", img_size=40), torch.randn(5, 3, 40, 40)
    outputs, ran = FidelityMeter.outputs, []

    def counting(meter, plan, *arguments, **settings):
        ran.append((plan, len(torch.cat(meter.batches)), meter.batches[0].shape[-1]))
        return outputs(meter, plan, *arguments, **settings)

    monkeypatch.setattr(FidelityMeter, "outputs", counting)
    found = search_plan(model, photos, flops=0.8, methods=["random"])
    held_out = [(plan, side) for plan, count, side in ran if count == 2]
    assert held_out
    assert len(set(held_out)) == len(held_out)
    losses = found.provenance["held_out"]["loss"], found.provenance["smaller input"]["loss"]
    difference = found.provenance["smaller input"]["difference"]["loss"]
    assert difference == pytest.approx(losses[0] - losses[1])


def test_a_memo_computes_once_and_reads_back(tmp_path):
    path = tmp_path / "m.json"
    memo = Memo(path, {"seed": 1})
    assert memo("a", lambda: [1, 2.5]) == [1, 2.5]
    assert memo("a", lambda: 1 / 0) == [1, 2.5]
    assert Memo(path, {"seed": 1})("a", lambda: 1 / 0) == [1, 2.5]
    assert Memo(path, {"seed": 2})("a", lambda: "new") == "new"
    path.write_text("[]")
    with pytest.raises(InputError, match=re.escape(f"{path} is not the state of a search")):
        Memo(path, {})


# The command.


def test_images_are_drawn_by_the_seed(tmp_path):
    source = MemorySource(torch.arange(10.0).view(10, 1, 1, 1), torch.arange(10))
    first, again, other = draw(source, 4, 0), draw(source, 4, 0), draw(source, 4, 1)
    assert torch.equal(first.images, again.images)
    assert first.labels.tolist() == first.images.flatten().tolist()
    assert first.labels.tolist() != other.labels.tolist()
    assert len(draw(source, 99, 0).images) == 10
    broken = tmp_path / "0.png"
    broken.write_text("no picture")
    files = FileSource([broken], lambda image: torch.zeros(1, 2, 2))
    with pytest.raises(InputError, match="none of the 1 images"):
        draw(files, 5, 0)
    assert len(files.skipped) == 1


def test_the_plot_shows_what_was_tried(tmp_path):
    plan = Plan({0: 5})
    tried = [Trial(plan, 0.8, 0.01, 1.0), Trial(Plan({}, Random()), 0.9, 0.0, 1.0)]
    facts = {"target": {"flops": 0.8}, "objective": "kl", "model": "m"}
    plot_tried(SearchResult(plan, tried, facts), tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("given", [None, [1, 2], "images"])
def test_what_are_no_images_is_one_clear_line(small, given):
    model, _ = small
    with pytest.raises(InputError, match="images is a .*; expected a tensor"):
        search_plan(model, given, flops=0.8)
    with pytest.raises(InputError, match="the model is a NoneType; pass a torch.nn.Module"):
        search_plan(None, images(), flops=0.8)


@pytest.mark.parametrize(
    ("difference", "says"),
    [
        ((-0.02, -0.03, -0.01), "the plan's is lower by 0.0200 (95 %: 0.0100 to 0.0300)"),
        ((0.02, 0.01, 0.03), "higher by 0.0200 (95 %: 0.0100 to 0.0300): take the smaller input"),
        ((0.02, -0.01, 0.05), "not told apart from it (+0.0200, 95 %: -0.0100 to +0.0500)"),
    ],
)
def test_a_plan_that_is_no_better_than_a_smaller_input_says_so(small, difference, says):
    model, photos = small
    found = search_plan(model, photos, flops=0.7, methods=QUICK[1:], batch_size=4)
    rival = {"pixels": 24, "flops": 0.7, "loss": 0.1}
    rival["difference"] = dict(zip(("loss", "from", "to"), difference, strict=True))
    found.provenance["smaller input"] = rival
    assert says in found.summary()
