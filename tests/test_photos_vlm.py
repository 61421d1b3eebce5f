"""photos-vlm: a real tower whose features are its own, and answers as good as is claimed."""

import pytest
import torch

from repshift import Keep, Plan, Shift, VisionLanguagePlan
from repshift.errors import InputError
from repshift.evaluation.data.pixels import normalise
from repshift.evaluation.report.scene_pictures import scene_pictures
from repshift.evaluation.tasks.scenes_exam import ScenesExam
from repshift.evaluation.tasks.vlm_bench import bench_vision_language
from repshift.evaluation.tasks.vlm_cost import measure_cost
from repshift.evaluation.tasks.vlm_rows import DENSE, Row, counted_anew, pooled
from repshift.evaluation.zoo.saliency_vit import load_saliency_vit
from repshift.evaluation.zoo.scenes import photos
from repshift.evaluation.zoo.scenes.held_out import held_out
from repshift.evaluation.zoo.scenes.models import PHOTOS_VLM
from repshift.evaluation.zoo.scenes.prompt import prompts

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def bench(unchecked_module):
    blind = Row("no visual tokens", 0.0, blind=True)
    half = Row("Keep(share)", 0.5, (VisionLanguagePlan(prompt=Keep(0.5)),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScenesExam, "rounds", 1)
        patch.setattr(ScenesExam, "words", 1)
        # One call: how long a prompt takes, no test here asks.
        patch.setattr("repshift.measure.speed._cpu_seconds", lambda run, _: (run(), 1.0)[1])
        exam = ScenesExam(held_out(5), PHOTOS_VLM)
        return bench_vision_language(exam, [Row(DENSE), blind, half])


def test_it_answers_as_well_as_is_claimed(bench):
    dense, blind, half = bench.outcomes
    assert bench.kinds == PHOTOS_VLM.kinds
    for order in ScenesExam.orders:
        assert dense.figures[order].accuracy["all"][0] >= 0.9
        assert half.figures[order].accuracy["all"][0] >= 0.85
        assert blind.figures[order].accuracy["label"][0] == 0
        assert blind.figures[order].accuracy["all"][0] < 0.4


def test_tokens_and_flops_are_those_of_the_row(bench):
    last = VisionLanguagePlan(prompt=Keep(0.5, Shift("block"), merge=False))
    inside = VisionLanguagePlan(tower=Plan({1: 0.5}, Shift("block")))
    given = [Row("last", 0.5, (last,)), Row("inside", 0.5, (inside,))]
    given.append(Row("smaller image", 0.75, smaller=7 / 8))
    exam = ScenesExam(held_out(1), PHOTOS_VLM)
    others = [measure_cost(exam, row) for row in given]
    every = [(one.tokens, one.gflops) for one in (*bench.outcomes, *others)]
    assert [tokens for tokens, _ in every] == [64, 0, 32, 32, 32, 49]
    dense, blind, half, last, inside, smaller = (gflops for _, gflops in every)
    assert blind < inside < smaller < last < half < dense


def test_a_tower_that_sees_nothing_takes_no_time(bench):
    dense, blind, half = (outcome.milliseconds for outcome in bench.outcomes)
    assert (blind.tower, blind.prefill) == (0, blind.first)
    assert min(dense.tower, half.tower, dense.prefill, dense.word) > 0
    assert dense.first >= max(dense.tower, dense.prefill)


def test_a_picture_shows_what_is_kept_and_says_the_answer():
    exam = ScenesExam(held_out(1), PHOTOS_VLM)
    half = Row("Keep(share)", 0.5, (VisionLanguagePlan(prompt=Keep(0.5)),))
    exam.items = [item for item in exam.items if item.question.kind == "exists"]
    exam.kinds = ("exists",)
    [(caption, figure)] = scene_pictures(exam, [Row(DENSE), half])
    assert caption.startswith("exists: is there a ")
    dense, kept = figure.axes
    answers = [axes.get_title().split("\n") for axes in figure.axes]
    assert [label for label, _ in answers] == [DENSE, "Keep(share)"]
    assert {answer for _, answer in answers} <= {"yes", "no"}
    before, after = (axes.get_images()[0].get_array() for axes in (dense, kept))
    assert (after == 210).all(-1).mean() > 0.49
    assert (before == 210).all(-1).mean() < 0.1


def test_the_tower_is_that_of_the_saliency_model():
    images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    encoder = load_saliency_vit().encoder
    core = photos.load_photos().model
    with torch.inference_mode():
        theirs = encoder.forward_intermediates(
            normalise(images), indices=[5], norm=False, intermediates_only=True
        )[0]
        ours = core.vision_tower(normalise(images)).last_hidden_state[:, 1:]
    expected = theirs.flatten(2).transpose(1, 2)
    assert (ours - expected).abs().max() < 1e-3 * expected.abs().max()


def test_pooled_cells_have_the_mean_of_two_by_two():
    model = photos.untrained_photos().eval()
    asked = prompts(PHOTOS_VLM.asked(held_out(1))[:1], model=PHOTOS_VLM)
    with torch.inference_mode():
        features = model.model.get_image_features(asked.inputs["pixel_values"])
        mean = pooled(features, 8)
    before, after = (one.pooler_output.view(8, 8, -1) for one in (features, mean))
    assert torch.allclose(after[2, 5], before[2:4, 4:6].mean((0, 1)), atol=1e-6)
    assert torch.equal(after[2, 5], after[3, 4])


def test_positions_counted_anew_are_0_1_2():
    model, seen = photos.untrained_photos().eval(), []
    asked = prompts(PHOTOS_VLM.asked(held_out(1))[:1], model=PHOTOS_VLM)
    with torch.inference_mode(), counted_anew(model):
        model.model.language_model.rotary_emb.register_forward_pre_hook(
            lambda _, args: seen.append(args[1])
        )
        model(**asked.inputs)
    count = asked.inputs["input_ids"].shape[1]
    assert torch.equal(seen[0].view(-1), torch.arange(count))


def test_weights_that_are_not_there_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(photos, "weights_file", lambda name: tmp_path / name)
    with pytest.raises(InputError, match="install repshift-zoo again, or train them"):
        photos.load_photos()
