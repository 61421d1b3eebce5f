"""A vision-language model under every row: what it answers, and what a prompt costs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F
from tqdm import tqdm

from repshift.errors import InputError
from repshift.evaluation.tasks.store import Store
from repshift.evaluation.tasks.vlm_cost import measure_cost
from repshift.evaluation.tasks.vlm_rows import DENSE
from repshift.evaluation.tasks.vlm_times import measure_times
from repshift.measure.environment import environment, libraries
from repshift.measure.wilson import wilson_interval

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from repshift.evaluation.tasks.vlm_exam import Exam
    from repshift.evaluation.tasks.vlm_rows import Row
    from repshift.evaluation.tasks.vlm_times import Times
    from repshift.vision_language.plan import VisionLanguagePlan

    # Of every question: ``right``, ``same`` as the dense model's answer, ``kl`` from its first
    # word; of the dense model what it ``said`` and the ``odds`` of all first words.
    Answers = dict[str, Tensor]


@dataclass
class Figures:
    """Of one row and one order of the prompt; shares, each with its 95 % interval.

    Attributes:
        accuracy: By kind, and ``all``.
        agreement: Share of the answers that are those of the dense model.
        kl: Of the first word of the answer, from the dense model's, in nats.
    """

    accuracy: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    agreement: float = 1.0
    kl: float = 0.0


@dataclass
class Outcome:
    """One row: the cost of the exam's example, and the figures by order.

    ``tokens`` of an image (or film) reach the last layer; ``cache_mb`` is key-value memory;
    ``milliseconds`` are those of ``Times``.
    """

    label: str
    share: float
    tokens: int
    gflops: float
    kernel: str
    cache_mb: float
    plans: list[str]
    figures: dict[str, Figures]
    milliseconds: Times


@dataclass
class VisionLanguageBench:
    """All rows. ``refused`` are those that the model does not run, with the reason."""

    outcomes: list[Outcome]
    refused: dict[str, str]
    kinds: tuple[str, ...]
    environment: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def bench_vision_language(
    exam: Exam, rows: Sequence[Row], folder: Path | None = None
) -> VisionLanguageBench:
    """Ask all questions in all orders under every row, dense first.

    Answers are kept in ``folder`` until all are there, so that a stopped run goes on.
    """
    facts = {"model": exam.name, **exam.facts}
    model = exam.model(rows[0].kernel)
    weight = next(model.parameters())
    made_on = environment(weight.device, weight.dtype, *libraries(model))
    facts |= made_on
    store = None
    if folder is not None:
        store = Store(folder, {**made_on, **exam.identity()})
    dense: dict[str, Answers] = {}
    asked: dict[Row, dict[str, Figures]] = {}
    refused: dict[str, str] = {}
    for row in tqdm(rows, unit=" rows", delay=1):
        try:
            figures = {}
            for order in exam.orders:
                plans = row.plans or (None,)
                runs = [_kept(store, exam, row, plan, order, dense) for plan in plans]
                figures[order] = _figures(exam, row, order, runs)
            asked[row] = figures
        except InputError as error:
            if row.label == DENSE:
                raise
            refused[row.label] = str(error)
    costs = [measure_cost(exam, row) for row in asked]
    times = measure_times(exam, list(asked))
    outcomes = [
        Outcome(
            label=row.label,
            share=row.share,
            **asdict(cost),
            plans=[one.to_json() for one in row.plans],
            figures=figures,
            milliseconds=taken,
        )
        for (row, figures), cost, taken in zip(asked.items(), costs, times, strict=True)
    ]
    return VisionLanguageBench(outcomes, refused, exam.kinds, facts)


def _kept(
    store: Store | None,
    exam: Exam,
    row: Row,
    plan: VisionLanguagePlan | None,
    order: str,
    dense: dict[str, Answers],
) -> Answers:
    """The answers of a row under one of its plans, asked once."""
    if store is None:
        answers = _ask(exam, row, plan, order, dense.get(order))
    else:
        name = hashlib.sha256(json.dumps([row.identity(plan), order]).encode()).hexdigest()[:16]
        answers = store.get(name, lambda: _ask(exam, row, plan, order, dense.get(order)))
    if row.label == DENSE:
        dense[order] = answers
    return answers


@torch.inference_mode()
def _ask(
    exam: Exam, row: Row, plan: VisionLanguagePlan | None, order: str, dense: Answers | None
) -> Answers:
    model, found, at = exam.model(row.kernel), [], 0
    with row.attached(model, plan):
        for number, (_, count) in enumerate(exam.batches(order)):
            at += count
            if row.films and not exam.about_film(order, number):
                continue
            inputs = exam.given(row, order, number)
            told = model.generate(
                **inputs, do_sample=False, return_dict_in_generate=True, output_logits=True
            )
            said = told.sequences[:, inputs["input_ids"].shape[1] :]
            odds = told.logits[0].float().log_softmax(-1).cpu()
            right = exam.right(order, number, said).float()
            words = inputs["max_new_tokens"]
            said = F.pad(said, (0, words - said.shape[1]), value=-1).cpu()
            answers = {"right": right.cpu()}
            if dense is None:
                answers |= {"said": said, "odds": odds}
            else:
                theirs = slice(at - count, at)
                same = (said == dense["said"][theirs, :words]).all(1)
                far = F.kl_div(odds, dense["odds"][theirs], reduction="none", log_target=True)
                answers |= {"same": same.float(), "kl": far.sum(1)}
            found.append(answers)
    longest = max((one["said"].shape[1] for one in found if "said" in one), default=0)
    for one in found:
        if "said" in one:
            one["said"] = F.pad(one["said"], (0, longest - one["said"].shape[1]), value=-1)
    return {name: torch.cat([one[name] for one in found]) for name in (found[0] if found else {})}


def _figures(exam: Exam, row: Row, order: str, runs: Sequence[Answers]) -> Figures:
    kinds = [
        kind
        for number, (kind, count) in enumerate(exam.batches(order))
        if not row.films or exam.about_film(order, number)
        for _ in range(count)
    ]
    right = torch.stack([run["right"] for run in runs]).mean(0)
    figures = Figures()
    for kind in (*exam.kinds, "all"):
        own = torch.tensor([kind in ("all", one) for one in kinds])
        if own.any():
            figures.accuracy[kind] = wilson_interval(right[own])
    if row.label != DENSE:
        figures.agreement = torch.cat([run["same"] for run in runs]).mean().item()
        figures.kl = torch.cat([run["kl"] for run in runs]).mean().item()
    return figures
