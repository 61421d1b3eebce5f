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

    from repshift.evaluation.tasks.vlm_exam import Example
    from repshift.evaluation.tasks.vlm_rows import Row


@dataclass(frozen=True)
class Times:
    """Milliseconds: of the tower, of the rest until the first word, of both, of a further word."""

    tower: float
    prefill: float
    first: float
    word: float


@dataclass(frozen=True)
class Call:
    """Seconds of one call: of the tower, and of all else."""

    tower: float
    rest: float


@torch.inference_mode()
def measure_times(exam: Example, rows: Sequence[Row]) -> list[Times]:
    """Of the exam's example under every row, all rows in turn."""
    calls: dict[tuple[int, int], list[Call]] = {}
    contexts, runs = {}, {}
    for number, row in enumerate(rows):
        inputs = exam.example(row)
        for words in (1, 1 + exam.words):
            key = number, words
            clock = Clock(exam, row, calls.setdefault(key, []))
            contexts[str(key)] = clock.attached
            runs[str(key)] = partial(clock.call, inputs, words)
    device = next(exam.model(rows[0].kernel).parameters()).device
    interleave(contexts, runs, device=device, rounds=exam.rounds, seconds=exam.seconds)

    def times(number: int) -> Times:
        one, more = (calls[number, words] for words in (1, 1 + exam.words))
        tower, prefill = median(call.tower for call in one), median(call.rest for call in one)
        first = median(call.tower + call.rest for call in one)
        word = max(0.0, median(call.rest for call in more) - prefill) / exam.words
        return Times(1e3 * tower, 1e3 * prefill, 1e3 * first, 1e3 * word)

    return list(map(times, range(len(rows))))


class Clock:
    """Runs a row, and keeps what each call takes.

    What the tower takes is subtracted call by call: it varies by more than a short prefill takes.
    """

    def __init__(self, exam: Example, row: Row, calls: list[Call]) -> None:
        self.exam, self.row, self.calls = exam, row, calls
        self.began = self.tower = 0.0

    @contextmanager
    def attached(self) -> Generator[None]:
        """The model as the row has it, its tower clocked."""
        model = self.exam.model(self.row.kernel)
        parts = parts_of(model)
        tower = parts.core.get_submodule(parts.family.tower)

        def begin(*_: object) -> None:
            self.began = _now(tower)

        def end(*_: object) -> None:
            self.tower += _now(tower) - self.began

        handles = [tower.register_forward_pre_hook(begin), tower.register_forward_hook(end)]
        try:
            with self.row.attached(model, self.row.plans[0] if self.row.plans else None):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def call(self, inputs: Mapping[str, Any], words: int) -> None:
        """Write so many words behind the prompt."""
        model, self.tower = self.exam.model(self.row.kernel), 0.0
        began = _now(model)
        model.generate(**inputs, max_new_tokens=words, min_new_tokens=words, do_sample=False)
        self.calls.append(Call(self.tower, _now(model) - began - self.tower))


def _now(module: nn.Module) -> float:
    device = next(module.parameters()).device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()
