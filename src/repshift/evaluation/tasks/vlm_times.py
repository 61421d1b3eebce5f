"""How long a prompt takes: the tower, the prefill behind it, and each word that is written."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from repshift.measure.speed import interleave
from repshift.vision_language.families import parts_of

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from torch import nn

    from repshift.evaluation.tasks.vlm_exam import Exam
    from repshift.evaluation.tasks.vlm_rows import Row

WORDS = 8  # written behind the first one
ROUNDS, SECONDS = 3, 0.05


@dataclass(frozen=True)
class Times:
    """Milliseconds: of the tower, of the rest until the first word, of both, of a further word."""

    tower: float
    prefill: float
    first: float
    word: float


@torch.inference_mode()
def measure_times(exam: Exam, rows: Sequence[Row]) -> list[Times]:
    """Of the exam's example under every row, all rows in turn."""
    towers: dict[str, list[float]] = {}
    contexts, runs = {}, {}
    for number, row in enumerate(rows):
        inputs = exam.example(row)
        for words in (1, 1 + WORDS):
            name = f"{number} {words}"
            contexts[name] = partial(_running, exam, row, towers.setdefault(name, []))
            runs[name] = partial(_write, exam.model(row.kernel), inputs, words)
    device = next(exam.model(rows[0].kernel).parameters()).device
    taken = interleave(contexts, runs, device=device, rounds=ROUNDS, seconds=SECONDS)
    found = []
    for number in range(len(rows)):
        first, all_words = (median(taken[f"{number} {words}"]) for words in (1, 1 + WORDS))
        seen = median(towers[f"{number} 1"] or [0.0])
        one = (seen, first - seen, first, max(0.0, all_words - first) / WORDS)
        found.append(Times(*(1e3 * each for each in one)))
    return found


@contextmanager
def _running(exam: Exam, row: Row, spent: list[float]) -> Generator[None]:
    """The model as a row has it, its tower clocked."""
    model = exam.model(row.kernel)
    parts = parts_of(model)
    tower = parts.core.get_submodule(parts.family.tower)
    began = 0.0

    def begin(*_: object) -> None:
        nonlocal began
        began = _now(tower)

    def end(*_: object) -> None:
        spent.append(_now(tower) - began)

    handles = [tower.register_forward_pre_hook(begin), tower.register_forward_hook(end)]
    try:
        with row.attached(model, row.plans[0] if row.plans else None):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _write(model: Any, inputs: Mapping[str, Any], words: int) -> None:
    model.generate(**inputs, max_new_tokens=words, min_new_tokens=words, do_sample=False)


def _now(module: nn.Module) -> float:
    device = next(module.parameters()).device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()
