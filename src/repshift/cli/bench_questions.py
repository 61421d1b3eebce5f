"""``repshift bench`` of a vision-language model: what it answers when it sees fewer tokens."""

from __future__ import annotations

import shutil
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from repshift.cli import options
from repshift.cli.outputs import check_outputs, check_suffix
from repshift.errors import InputError
from repshift.evaluation.zoo.scenes import NAMES as SCENES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from repshift.cli.bench import Bench
    from repshift.evaluation.tasks.vlm_exam import Exam
    from repshift.evaluation.tasks.vlm_rows import Row

# The models of the zoo bring their own questions and run on a CPU.
_SCENES = frozenset({"model", "plan", "imports", "samples", "threads", "json", "out"})
_OWN = _SCENES | {"questions", "device", "dtype"}
PICTURES = 3  # of a user's own questions


def bench_questions(command: Bench) -> None:
    """Ask a model of the zoo its held-out questions, or a model of transformers those of a file."""
    from repshift.evaluation.report.results import ResultFiles
    from repshift.evaluation.report.vision_language import write_vision_language
    from repshift.evaluation.tasks.vlm_bench import bench_vision_language
    from repshift.evaluation.tasks.vlm_rows import found

    scenes = command.model in SCENES
    for field in fields(command):
        taken = _SCENES if scenes else _OWN
        if field.name not in taken and getattr(command, field.name) != field.default:
            flag = field.name.replace("_", "-")
            what = command.model if scenes else "a bench with --questions"
            raise InputError(f"--{flag} does not apply to {what}; leave it out")
    if command.samples is not None:
        options.positive("--samples", command.samples)
    plans = [
        found(Path(text).stem, options.read_prompt_plan(text, command.model))
        for text in command.plan
    ]
    out = command.out or Path("runs") / options.model_name(command.model)
    files = ResultFiles(
        out / "bench.json", out / "bench.md", out / "bench.png", out / "report.html", command.json
    )
    check_suffix("--json", command.json, ".json")
    check_outputs(command, files.written)
    options.threads(command.threads)
    exam, rows, pictures = (_scenes if scenes else _questions)(command)
    answers = out / "answers"
    bench = bench_vision_language(exam, [*rows, *plans], answers)
    write_vision_language(bench, files, pictures)
    shutil.rmtree(answers)  # the results are written: what led to them is of no more use


def _scenes(command: Bench) -> tuple[Exam, list[Row], list[tuple[str, Figure]]]:
    from repshift.evaluation.report.scene_pictures import scene_pictures
    from repshift.evaluation.tasks.scenes_exam import ScenesExam
    from repshift.evaluation.tasks.vlm_rows import checks, drawn, rows
    from repshift.evaluation.zoo.scenes.held_out import COUNT, held_out
    from repshift.evaluation.zoo.scenes.models import SCENE_MODELS

    count = COUNT if command.samples is None else command.samples
    if count > COUNT:
        raise InputError(f"--samples is {count}; there are {COUNT} questions of each kind")
    exam = ScenesExam(held_out(count), SCENE_MODELS[command.model])
    pictures = scene_pictures(exam, drawn(exam.depth))
    return exam, [*rows(exam.depth), *checks(exam.depth, exam.films)], pictures


def _questions(command: Bench) -> tuple[Exam, list[Row], list[tuple[str, Figure]]]:
    import torch

    from repshift.evaluation.data.questions import read_questions
    from repshift.evaluation.report.prompt_picture import question_pictures
    from repshift.evaluation.tasks.questions_exam import QuestionsExam
    from repshift.evaluation.tasks.vlm_rows import rows
    from repshift.evaluation.zoo.vision_language import load_vision_language

    assert command.questions is not None
    questions = read_questions(command.questions)[: command.samples]
    device = options.device(command.device)
    loaded = load_vision_language(command.model)
    loaded.model.to(device, getattr(torch, command.dtype))
    exam = QuestionsExam(loaded, questions)
    return exam, rows(exam.depth), question_pictures(loaded, questions[:PICTURES])
