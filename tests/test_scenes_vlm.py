"""scenes-vlm answers as well as it is said to, and its bench tells what pruning costs."""

import json
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from repshift import Keep, VisionLanguagePlan, compress
from repshift.errors import InputError
from repshift.evaluation.report.results import ResultFiles
from repshift.evaluation.report.vision_language import write_vision_language
from repshift.evaluation.tasks.scenes_exam import ScenesExam
from repshift.evaluation.tasks.vlm_bench import bench_vision_language
from repshift.evaluation.tasks.vlm_rows import (
    DENSE,
    Depth,
    Row,
    checks,
    counted_anew,
    pooled,
    rows,
)
from repshift.evaluation.zoo.scenes import model as zoo
from repshift.evaluation.zoo.scenes.held_out import held_out
from repshift.evaluation.zoo.scenes.language import KINDS
from repshift.evaluation.zoo.scenes.model import WORDS, load_scenes, untrained_scenes
from repshift.evaluation.zoo.scenes.models import SCENE_MODELS
from repshift.evaluation.zoo.scenes.prompt import prompts

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))


pytestmark = pytest.mark.usefixtures("unchecked")
BLIND = Row("no visual tokens", 0.0, blind=True)


@pytest.fixture(scope="module")
def quick_once(unchecked_module):
    """How long a prompt takes, no test here asks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScenesExam, "rounds", 1)
        patch.setattr(ScenesExam, "seconds", 0.0)
        patch.setattr(ScenesExam, "words", 1)
        yield


@pytest.fixture(scope="module")
def judged(quick_once):
    """Enough questions to tell how many answers are right."""
    return bench_vision_language(ScenesExam(held_out(10)), [Row(DENSE), BLIND])


@pytest.fixture(scope="module")
def bench(quick_once):
    eager = Row("dense, eager", kernel="eager")
    half = Row("Keep(share)", 0.5, (VisionLanguagePlan(prompt=Keep(0.5)),))
    return bench_vision_language(ScenesExam(held_out(2)), [Row(DENSE), eager, BLIND, half])


def test_it_answers_as_well_as_is_claimed(judged):
    for order in ScenesExam.orders:
        accuracy = {
            kind: one[0] for kind, one in judged.outcomes[0].figures[order].accuracy.items()
        }
        assert accuracy["all"] >= 0.95
        assert min(accuracy[kind] for kind in KINDS) >= 0.9


def test_without_an_image_it_guesses(judged):
    for order in ScenesExam.orders:
        accuracy = judged.outcomes[1].figures[order].accuracy
        assert accuracy["label"][0] == 0
        assert accuracy["place"][0] < 0.2
        assert accuracy["all"][0] < 0.4


def test_eager_attention_answers_the_same(bench):
    for figures in bench.outcomes[1].figures.values():
        assert figures.agreement > 0.99
        assert figures.kl < 1e-4


def test_tokens_and_flops_are_those_of_the_plan(bench):
    dense, _, blind, half = bench.outcomes
    assert [dense.tokens, blind.tokens, half.tokens] == [64, 0, 32]
    assert dense.gflops > half.gflops > blind.gflops
    assert [dense.kernel, bench.outcomes[1].kernel] == ["flash", "eager"]


def test_results_are_written(bench, tmp_path):
    files = ResultFiles(*(tmp_path / name for name in ("a.json", "a.md", "a.png", "a.html")))
    write_vision_language(bench, files)
    table = files.table.read_text()
    assert all(f" {kind} |" in table for kind in KINDS)
    told = json.loads(files.figures.read_text())
    assert [row["label"] for row in told["outcomes"]] == [one.label for one in bench.outcomes]


def test_rows_differ():
    every = [*rows(Depth(6, 6)), *checks(Depth(6, 6))]
    assert every[0].label == DENSE
    assert len({(row.label, row.share) for row in every}) == len(every)


@pytest.mark.parametrize("known", SCENE_MODELS.values(), ids=SCENE_MODELS)
def test_training_computes_what_the_model_does(known):
    """Several questions behind one image, each as if it stood there alone."""
    from scene_batches import LENGTH, VISUAL
    from scene_batches import Row as Packed
    from scene_pupil import PhotoPupil, Pupil

    item = known.asked(held_out(1))[0]
    pupil = (PhotoPupil() if known.photographs else Pupil()).eval()
    with torch.compiler.set_stance("force_eager"), torch.inference_mode():
        for early in (False, True):
            asked = prompts([item], early, model=known)
            own = pupil.model(**asked.inputs).logits[0, -1]
            row, cells = Packed(line=bool(known.photographs)), list(range(64))
            row.add([*item.scenes], cells, [item.question] * (1 if early else 2), early)

            def full(values, length, filler):
                return torch.tensor([[*values, *[filler] * (length - len(values))]])

            one = {
                "ids": full(row.ids, LENGTH, 0),
                "segment": full(row.segment, LENGTH, 0),
                "branch": full(row.branch, LENGTH, 0),
                "places": full(row.places, LENGTH, (0, 0, 0)).permute(2, 0, 1),
                "columns": full(row.columns, VISUAL, LENGTH),
                "cells": full(row.cells, VISUAL, 0),
                "looks": torch.tensor([(0, token) for token, _, _ in row.looks]).long().view(-1, 2),
                "first": torch.zeros(len(row.looks), VISUAL),
                "last": torch.zeros(len(row.looks), VISUAL),
            }
            image = torch.from_numpy(item_pixels(item))
            features, deep = pupil.see(image, 16)
            logits = pupil.read(one, features[0], [layer[0] for layer in deep])[0][0]
            for at, word in enumerate(row.ids):
                if word == WORDS[":"]:
                    assert torch.allclose(logits[at], own, atol=1e-4)


def item_pixels(item):
    from repshift.evaluation.zoo.scenes.render import render

    return render(item.scenes[0])


def test_positions_counted_anew_are_0_1_2():
    model, seen = untrained_scenes().eval(), []
    asked = prompts(held_out(1)[:1])
    rotary = model.model.language_model.rotary_emb
    with (
        torch.inference_mode(),
        counted_anew(model),
        compress(model, VisionLanguagePlan(prompt=Keep(0.25))),
    ):
        rotary.register_forward_pre_hook(lambda _, args: seen.append(args[1][:, 0]))
        model.generate(**asked.inputs, max_new_tokens=2, min_new_tokens=2, do_sample=False)
    count = asked.inputs["input_ids"].shape[1] - 48
    assert torch.equal(seen[0], torch.arange(count).expand(3, -1))
    assert torch.equal(seen[1], torch.full((3, 1), count))


def test_pooled_cells_have_the_mean_of_two_by_two():
    model = untrained_scenes().eval()
    asked = prompts(held_out(1)[:1])
    with torch.inference_mode():
        features = model.model.get_image_features(
            asked.inputs["pixel_values"], asked.inputs["image_grid_thw"]
        )
        mean = pooled(features, 8)
    before, after = (one.pooler_output[0].view(8, 8, -1) for one in (features, mean))
    assert torch.allclose(after[2, 5], before[2:4, 4:6].mean((0, 1)), atol=1e-6)
    assert torch.equal(after[2, 5], after[3, 4])


def test_weights_that_are_not_there_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(zoo, "weights_file", lambda name: tmp_path / name)
    with pytest.raises(InputError, match="install repshift-zoo again, or train them"):
        load_scenes()
