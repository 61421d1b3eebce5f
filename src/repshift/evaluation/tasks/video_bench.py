"""A video model compressed in several ways: what is found and answered, beside what it costs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from repshift.evaluation.data.videos import decoder
from repshift.evaluation.tasks.answering import Answering
from repshift.evaluation.tasks.bench import Bench, Compared, measured, skipped
from repshift.evaluation.tasks.costs import Cost, measure_costs
from repshift.evaluation.tasks.published import published
from repshift.evaluation.tasks.retrieval import Retrieval
from repshift.evaluation.tasks.smaller_input import at_its_frames, fewer_frames
from repshift.evaluation.tasks.variants import (
    DENSE_EAGER,
    DENSE_FUSED,
    Variant,
    against,
    compared_plans,
    with_rival,
)
from repshift.measure.environment import environment

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from repshift.adapters.spec import EncoderSpec
    from repshift.evaluation.data.annotations import QuestionSet, RetrievalSet
    from repshift.evaluation.models.umt.answering import AnsweringModel
    from repshift.evaluation.models.umt.retrieval import RetrievalModel
    from repshift.evaluation.tasks.ranks import Ranks
    from repshift.evaluation.tasks.video_run import VideoRun
    from repshift.evaluation.tasks.videos import Videos
    from repshift.evaluation.zoo.video import VideoTask

ROUNDS = 5
_LIBRARIES = ("av", "torchcodec", "tokenizers")


@dataclass(frozen=True)
class RetrievalRow(Compared):
    """Recalls in percent, text to video and back, their mean, and the median rank of the former.

    ``published`` are the mean recalls that a paper prints for the same data, model and method.
    """

    videos_per_s: float
    t2v_r1: float
    t2v_r5: float
    t2v_r10: float
    v2t_r1: float
    v2t_r5: float
    v2t_r10: float
    mean_r1: float
    mean_r5: float
    mean_r10: float
    median_rank: float
    published: str


@dataclass(frozen=True)
class AnswerRow(Compared):
    """Share of the questions that were answered correctly, and what a paper prints, in percent."""

    videos_per_s: float
    accuracy: float
    published: str


def bench_retrieval(
    task: VideoTask[RetrievalModel, RetrievalSet],
    spec: EncoderSpec,
    videos: Videos,
    rows: Sequence[Variant],
    *,
    candidates: int,
    folder: Path,
    ranks: Ranks,
) -> Bench[RetrievalRow] | None:
    """Retrieval with every variant, and its cost; None in processes that only helped."""
    texts = task.tokenizer.captions(task.data.texts, task.data.text_length)
    task.model.to(videos.device, videos.dtype)
    run = Retrieval(
        task.model, spec, task.data, videos, texts,
        candidates=candidates, folder=folder, ranks=ranks,
    )  # fmt: skip
    about = f"{len(task.data.texts)} texts, the {candidates} best candidates ranked again"
    return _bench(task, run, rows, RetrievalRow, about, ("mean_r1", "mean R@1", 1.0))


def bench_answering(
    task: VideoTask[AnsweringModel, QuestionSet],
    spec: EncoderSpec,
    videos: Videos,
    rows: Sequence[Variant],
    *,
    candidates: int,
    folder: Path,
    ranks: Ranks,
) -> Bench[AnswerRow] | None:
    """Question answering with every variant; otherwise as ``bench_retrieval``."""
    data = task.data
    task.model.to(videos.device, videos.dtype)
    run = Answering(
        task.model, spec, data, videos,
        task.tokenizer.captions(data.questions, data.question_length),
        task.tokenizer.answers(data.answer_list, data.answer_length),
        candidates=candidates, folder=folder, ranks=ranks,
    )  # fmt: skip
    about = f"{len(data.questions)} questions, {len(data.answer_list)} answers to choose from"
    return _bench(task, run, rows, AnswerRow, about, ("accuracy", "accuracy", 100.0))


def _bench(
    task: VideoTask,
    run: VideoRun,
    rows: Sequence[Variant],
    kind: type[RetrievalRow] | type[AnswerRow],
    about: str,
    quality: tuple[str, str, float],
) -> Bench | None:
    sampling, encoder = run.videos.sampling, task.model.vision_encoder
    video = torch.zeros(
        1, sampling.frames, 3, sampling.size, sampling.size,
        device=run.videos.device, dtype=run.videos.dtype,
    )  # fmt: skip
    with torch.inference_mode():
        rows = with_rival(rows, fewer_frames(encoder, run.spec, compared_plans(rows), video))
    rows = [at_its_frames(row, encoder, sampling.frames) for row in rows]
    # Dense on eager attention is timed alone; what it finds is what the fused kernel finds.
    judged = [row for row in rows if row != DENSE_EAGER]
    run.encode(judged)
    results = {row: run.quality(row) for row in judged}
    if run.ranks.rank:
        return None
    fused = next(row for row in rows if row == DENSE_FUSED)
    results |= {row: results[fused] for row in rows if row == DENSE_EAGER}
    videos = run.videos
    full = next(chunk for chunk, usable in run.usable(run.store(judged[0], 0)).items() if usable)
    [(_, _, batch)] = videos.read([full])
    with torch.inference_mode():
        costs = measure_costs(encoder, run.spec, rows, batch, rounds=ROUNDS)
    left_out = run.skipped(judged[0])
    facts = {
        "model": task.name,
        "data": task.data.name,
        "videos": len(videos.paths) - len(left_out),
        "skipped": len(left_out),
        "batch_size": len(batch),
        "sampling": asdict(videos.sampling),
        "decoder": decoder(),
        "rounds": ROUNDS,
    } | environment(videos.device, videos.dtype, *_LIBRARIES)
    return Bench(
        [
            kind(
                method=row.label,
                plan=row.schedule,
                **_costs(costs[row]),
                **results[row],
                published=published(task.dataset, task.size, row),
            )
            for row in rows
        ],
        facts,
        left_out,
        f"{task.name} on {task.data.name}: {facts['videos']} videos{skipped(left_out)}, {about}. "
        f"Vision encoder, {measured(facts)}",
        *quality,
        against(rows),
    )


def _costs(cost: Cost) -> dict[str, Any]:
    figures = asdict(cost)
    return {"videos_per_s": figures.pop("images_per_s"), **figures}
