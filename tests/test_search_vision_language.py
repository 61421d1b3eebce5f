"""The search over tower, prompt and decoder: its result against a slow search, and its refusals."""

import json
import math
from bisect import bisect_left

import pytest
import torch

pytest.importorskip("transformers")

from repshift import InputError, Keep, LastQuery, Plan, Shift, VisionLanguagePlan, compress
from repshift import search_vision_language as search
from repshift.evaluation.data.questions import read_questions
from repshift.evaluation.tasks.search_prompts import question_prompts, scene_prompts
from repshift.evaluation.zoo.scenes.held_out import held_out, others
from repshift.evaluation.zoo.vision_language import load_vision_language
from repshift.measure.flops import count_flops
from repshift.search import place_search, places
from repshift.search.memo import Memo
from repshift.search.place_search import PlaceSearch
from repshift.search.places import candidates, drops_more, keeping, without_lever
from repshift.search.prefill_cost import PrefillTime
from repshift.search.prompt_meter import PromptMeter
from vision_language_folders import save_qwen
from vision_language_models import build, inputs

# A search runs a model hundreds of times; that shapes are right is tested elsewhere.
pytestmark = pytest.mark.usefixtures("unchecked")
TOKENS = 16  # of LLaVA's image


@pytest.fixture(scope="module", autouse=True)
def _few(unchecked_module):
    """A table of 2 x 2 x 2 rows, so that a search takes a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places, "KEEPS", places.KEEPS[:1])
        patch.setattr(places, "TOWER_SHARES", (0.5,))
        patch.setattr(places, "DECODER_SHARES", (0.5,))
        patch.setattr(places, "TOWER_METHODS", places.TOWER_METHODS[:1])
        patch.setattr(places, "DECODER_METHODS", places.DECODER_METHODS[:1])
        yield


@pytest.fixture
def llava():
    return build("llava")


@pytest.fixture(scope="module")
def found():
    model = build("llava")
    return search(model, asked(model), flops=0.7, seed=3, name="mine")


def asked(model, family="llava", count=5):
    batches = [inputs(model, family, seed=seed) for seed in range(count - 1)]
    return [*batches, inputs(model, family, images=(1, 1), seed=count)]


def drawn(prompts, seed):
    """Those that are searched on."""
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(seed)).tolist()
    return [prompts[at] for at in order[len(prompts) // 2 :]]


def cost(model, plan, prompt):
    with compress(model, plan):
        return count_flops(lambda: model(**prompt, logits_to_keep=1))[0]


@torch.no_grad()
def loss(model, plan, prompts):
    """KL from the dense model's next word, and how often it is the same; written out."""
    rows, same = [], []
    for prompt in prompts:
        dense = model(**prompt).logits[:, -1].double().softmax(-1)
        with compress(model, plan):
            given = model(**prompt).logits[:, -1].double().softmax(-1)
        rows += (dense * (dense.log() - given.log())).sum(-1).tolist()
        same += (dense.argmax(-1) == given.argmax(-1)).tolist()
    return sum(rows) / len(rows), sum(same) / len(same)


def test_it_is_as_good_as_the_best_of_every_row_at_every_number_of_tokens(llava, found):
    prompts = asked(llava)
    dense = cost(llava, VisionLanguagePlan(), prompts[0])
    share = cost(llava, found.plan, prompts[0]) / dense
    assert share <= 0.7
    assert found.provenance["flops"] == pytest.approx(share)
    reached, table = [], candidates(3, 4)
    for row in table:
        if any(plan.prompt is None and drops_more(row, plan) for plan in reached):
            continue
        bare = without_lever(row)
        sizes = range(1, TOKENS) if row != bare else ()
        fits = [*(keeping(row, size, TOKENS) for size in sizes), bare]
        # The more tokens the dearer, and the closer.
        count = bisect_left(
            fits, True, key=lambda plan: cost(llava, plan, prompts[0]) > 0.7 * dense
        )
        reached += fits[:count][-1:]
    assert len(reached) >= 4
    seen = drawn(prompts, 3)
    best = min(loss(llava, plan, seen)[0] for plan in reached)
    ours, same = loss(llava, found.plan, seen)
    assert ours == pytest.approx(best, rel=1e-4)
    promised = found.provenance["promised"]
    assert (promised["kl"], promised["fidelity"]) == (pytest.approx(ours, rel=1e-4), same)
    unseen = [prompt for prompt in prompts if all(prompt is not one for one in seen)]
    checked, same = loss(llava, found.plan, unseen)
    kept = found.provenance["held_out"]
    assert (kept["kl"], kept["fidelity"]) == (pytest.approx(checked, rel=1e-4), same)
    assert kept["from"] <= kept["kl"] <= kept["to"]


def test_the_same_seed_finds_the_same_plan_and_its_file_says_how(llava, found, tmp_path):
    again = search(llava, asked(llava), flops=0.7, seed=3, name="mine")
    assert again.to_json() == found.to_json()
    found.plan.save(tmp_path / "plan.json")
    plan = VisionLanguagePlan.load(tmp_path / "plan.json")
    assert (plan, plan.provenance) == (found.plan, found.provenance)
    assert plan.provenance["target"] == {"flops": 0.7}
    assert (plan.provenance["model"], plan.provenance["prompts"]) == ("mine", 5)
    assert "transformers" in plan.provenance["versions"]
    assert "% of the dense FLOPs; on prompts that the search did not see KL" in found.summary()


def test_the_cheapest_plan_of_a_fidelity(llava, monkeypatch):
    monkeypatch.setattr(place_search, "STEPS", 6)
    prompts = asked(llava)
    found = search(llava, prompts, fidelity=0.6)
    assert loss(llava, found.plan, drawn(prompts, 0))[1] >= 0.6
    reach = [trial.share for trial in found.tried if trial.fidelity >= 0.6]
    assert found.provenance["flops"] == pytest.approx(min(reach))
    assert min(reach) < 1 < len(reach)


def test_where_nothing_keeps_the_fidelity_the_model_stays_dense(llava, monkeypatch):
    monkeypatch.setattr(place_search, "STEPS", 3)
    compare = PromptMeter.compare

    def none_is_the_same(self, plan, start, stop):
        losses, same = compare(self, plan, start, stop)
        return losses, [plan == VisionLanguagePlan()] * len(same)

    monkeypatch.setattr(PromptMeter, "compare", none_is_the_same)
    found = search(llava, asked(llava), fidelity=1.0)
    assert (found.plan, found.plan.provenance["flops"]) == (VisionLanguagePlan(), 1.0)


def test_a_speedup_is_that_of_the_time(llava, monkeypatch):
    prompts = asked(llava)
    dense = cost(llava, VisionLanguagePlan(), prompts[0])

    def seconds(self, plan):  # some time is always lost, so that fewer FLOPs are needed
        return cost(llava, plan, prompts[0]) / dense + 0.1 * (plan != VisionLanguagePlan())

    monkeypatch.setattr(PrefillTime, "_share", seconds)
    found = search(llava, prompts, speedup=1 / 0.75)
    assert found.provenance["flops"] <= 0.65
    assert 1 / 0.75 <= found.provenance["measured_speedup"] < 1 / 0.7
    assert "x as fast to the first word" in found.summary()


def test_time_is_measured_beside_the_dense_model(llava):
    prompt = inputs(llava, "llava")
    measure = PrefillTime(llava, prompt, Memo(None, {}))
    assert 0.1 < measure(VisionLanguagePlan(prompt=Keep(0.25))) < 10


def test_what_the_model_refuses_is_skipped():
    model = build("llava", kernel="eager")  # last-query reads keys, which eager does not show
    found = search(model, asked(model), flops=0.75)
    assert found.provenance["flops"] <= 0.75
    assert all(
        trial.plan.decoder is None or trial.plan.decoder.score != LastQuery()
        for trial in found.tried
    )


@pytest.mark.parametrize("target", [{"flops": 0.75}, {"fidelity": 0.5}])
def test_where_all_is_refused_the_first_reason_is_the_error(monkeypatch, target):
    monkeypatch.setattr(places, "KEEPS", ())
    monkeypatch.setattr(places, "TOWER_METHODS", ())
    model = build("llava", kernel="eager")
    with pytest.raises(InputError, match="where its keys are read; load the model with attn_impl"):
        search(model, asked(model), **target)


def test_a_target_that_no_plan_reaches(llava):
    with pytest.raises(InputError, match="FLOPs of a prompt down to 0.01 of the dense model's"):
        search(llava, asked(llava), flops=0.01)


def test_a_stopped_search_goes_on(llava, found, tmp_path, monkeypatch):
    prompts, state, told = asked(llava), tmp_path / "s.json", []

    def stop(line):
        told.append(line.startswith("KL"))
        if sum(told) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(llava, prompts, flops=0.7, seed=3, name="mine", state=state, progress=stop)
    known = json.loads(state.read_text())["known"]
    asked_for, compare = [], PromptMeter.compare

    def counted(self, plan, start, stop):
        asked_for.append(f"{plan.identity} on prompts {start} to {stop}")
        return compare(self, plan, start, stop)

    monkeypatch.setattr(PromptMeter, "compare", counted)
    resumed = search(llava, prompts, flops=0.7, seed=3, name="mine", state=state)
    assert [name for name in known if "on prompts" in name]
    assert not known.keys() & set(asked_for[:-1])  # the last is the check, on the other half
    assert resumed.to_json() == found.to_json()


class Told(PromptMeter):
    """Whose plans are as far from dense as they keep little, the more surely the more prompts."""

    def __init__(self, count):
        self.prompts, self.asked = [{}] * count, {}

    def compare(self, plan, start, stop):
        self.asked[plan] = stop
        left = plan.prompt.amount if plan.prompt else 1.0
        return [1 / left] * (stop - start), [True] * (stop - start)


def test_few_are_judged_on_all_prompts():
    table = [VisionLanguagePlan(prompt=Keep(at / 64)) for at in range(1, 65)]
    meter = Told(128)
    found = PlaceSearch(table, 64, meter, lambda plan: 0.5, Memo(None, {}))
    found.fit = lambda plan, share, cost: plan
    best = found.at_cost(0.5)
    assert [trial.plan.prompt.amount * 64 for trial in best] == [64, 63, 62, 61]
    stops = list(meter.asked.values())
    assert [stops.count(stop) for stop in (8, 32, 128)] == [48, 12, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda prompts: prompts[:1], "a list of 2 or more, as a processor gives them; got 1"),
        (lambda prompts: {"input_ids": 1}, "got dict"),
        (lambda prompts: [*prompts, "text"], "prompt 5 is a str without a tensor input_ids"),
        (lambda prompts: [*prompts, {"input_ids": [1]}], "prompt 5 is a dict without a tensor"),
        (
            lambda prompts: [{**prompts[0], "attention_mask": torch.tensor([[1, 0]])}, *prompts],
            "prompt 0 is padded on the right",
        ),
        (
            lambda prompts: [{"input_ids": torch.tensor([[5, 6]])}, *prompts],
            "the first prompt, by which costs are counted, has no image",
        ),
    ],
)
def test_prompts_that_are_none(llava, change, message):
    with pytest.raises(InputError, match=message):
        search(llava, change(asked(llava)), flops=0.7)


def test_models_that_are_none(llava):
    prompts = asked(llava)
    with pytest.raises(InputError, match="gives no logits"):
        search(llava.model, prompts, flops=0.7)
    with pytest.raises(InputError, match="is no vision-language model that repshift has read"):
        search(torch.nn.Linear(2, 2), prompts, flops=0.7)
    dropped = llava.lm_head.register_forward_pre_hook(
        lambda head, given: torch.nn.functional.dropout(given[0], 0.5, head.training)
    )
    with pytest.raises(InputError, match=r"call model.eval\(\) first"):
        search(llava.train(), prompts, flops=0.7)
    dropped.remove()
    llava.eval().lm_head.weight.data.fill_(math.nan)
    with pytest.raises(InputError, match="NaN or infinity"):
        search(llava, prompts, flops=0.7)
    with pytest.raises(InputError, match="one target"):
        search(llava, prompts, flops=0.7, speedup=2.0)


def test_the_table_names_blocks_that_the_model_has():
    for tower, decoder in ((0, 2), (2, 4), (6, 6), (27, 28)):
        table = candidates(tower, decoder)
        assert table[0] == VisionLanguagePlan()
        assert len(set(table)) == len(table)
        for plan in table:
            assert plan.tower is None or max(plan.tower.drop) < tower - 1
            assert plan.decoder is None or max(plan.decoder.drop) < decoder - 1
    assert sorted({at for plan in candidates(27, 28) if plan.tower for at in plan.tower.drop}) == [
        8
    ]
    layers = {at for plan in candidates(27, 28) if plan.decoder for at in plan.decoder.drop}
    assert sorted(layers) == [4, 8]


def test_where_less_is_enough_more_is_not_tried():
    def plan(tower, decoder, site="block"):
        return VisionLanguagePlan(
            None if tower is None else Plan({1: tower}, Shift(site)),
            None,
            None if decoder is None else Plan({0: decoder}, LastQuery()),
        )

    assert drops_more(plan(0.5, None), plan(None, None))
    assert drops_more(plan(0.5, 0.5), plan(0.5, None))
    assert drops_more(plan(0.7, 0.5), plan(0.5, 0.5))
    for one in (plan(0.5, 0.5), plan(0.3, 0.9), plan(0.7, None), plan(0.7, 0.9, "mlp")):
        assert not drops_more(one, plan(0.5, 0.5))


def test_the_scenes_searched_on_are_not_those_the_bench_judges_by():
    ours, judged = others(40, 0), held_out(4)
    assert len(ours) == 40
    assert len({item.question.kind for item in ours[:9]}) == 9
    assert not {item.scenes for item in ours} & {item.scenes for item in judged}
    assert not {item.scenes for item in ours} & {item.scenes for item in others(40, 1)}


def test_the_command_on_scenes(run, tmp_path, monkeypatch):
    monkeypatch.setattr(places, "KEEPS", places.KEEPS[:1])
    monkeypatch.setattr(places, "DECODER_PARTS", (1 / 3,))
    status, out, err = run(
        "search", "--model", "scenes-vlm", "--flops", 0.9, "--samples", 4, "--out", "p/plan.json"
    )
    assert status == 0, err
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["plan.json"]
    plan = VisionLanguagePlan.load(tmp_path / "p" / "plan.json")
    assert out.splitlines()[0].startswith(f"{plan}: ")
    assert plan.provenance["model"] == "scenes-vlm"
    from repshift.evaluation.zoo.scenes.model import load_scenes

    model, prompt = load_scenes(), scene_prompts(1, 0)[0]
    share = cost(model, plan, prompt) / cost(model, VisionLanguagePlan(), prompt)
    assert share <= 0.9
    assert plan.provenance["flops"] == pytest.approx(share)


@pytest.fixture
def questions(photos, tmp_path):
    """Of two images the first, alone and with the other behind it."""
    entries = [{"image": "photos/0.png", "question": f"w{number}"} for number in range(5, 8)]
    entries.append({"images": ["photos/0.png", "photos/1.png"], "question": "w9", "answer": "w3"})
    (tmp_path / "q.json").write_text(json.dumps(entries))
    return tmp_path / "q.json"


def test_the_command_on_questions_of_the_user(run, questions, tmp_path):
    folder = save_qwen(tmp_path / "qwen")
    status, out, err = run(
        "search", "--model", f"hf:{folder}", "--questions", questions, "--flops", 0.8
    )
    assert status == 0, err
    plan = VisionLanguagePlan.load("plan.json")
    assert plan.provenance["flops"] <= 0.8
    assert plan.provenance["prompts"] == 4
    assert str(plan) in out
    loaded, asked = load_vision_language(f"hf:{folder}"), read_questions(questions)
    two = question_prompts(loaded, asked, 9, 0)[3]
    assert len(two["image_grid_thw"]) == 2
    some = question_prompts(loaded, asked, 2, 0)
    assert [one["input_ids"].tolist() for one in some] == [
        one["input_ids"].tolist() for one in question_prompts(loaded, asked, 2, 0)
    ]
    assert len(some) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--model scenes-vlm --flops 0.9 --images photos", "--images does not go with a vision"),
        ("--model scenes-vlm --flops 0.9 --batch-size 2", "--batch-size does not go with a vis"),
        ("--model scenes-vlm --flops 0.9 --questions q.json", "leave --questions out"),
        ("--model scenes-vlm", "one target"),
        ("--model scenes-vlm --flops 0.9 --samples 1", "2 or more"),
        ("--model hf:x --flops 0.9 --questions no.json", "no.json cannot be read"),
        ("--model timm:x --flops 0.9 --questions q.json", "a prompt is read by a vision-language"),
        ("--model hf:x --flops 0.9 --questions q.json --out q.json", "would overwrite q.json"),
    ],
)
def test_what_the_command_refuses(run, questions, tmp_path, given, message):
    before = sorted(tmp_path.rglob("*"))
    status, _, err = run("search", *given.split())
    [line] = [line for line in err.splitlines() if line.startswith("repshift: ")]
    assert (status, message in line) == (2, True), line
    assert sorted(tmp_path.rglob("*")) == before
