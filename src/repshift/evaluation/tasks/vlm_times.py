"""How long a prompt takes: the tower, the prefill behind it, and each word that is written."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, fields
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from repshift.measure.speed import interleave
from repshift.vision_language.families import parts_of

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from repshift.evaluation.tasks.vlm_exam import Example
    from repshift.evaluation.tasks.vlm_rows import Row


@dataclass(frozen=True)
class Times:
    """Milliseconds: of the tower, of the rest until the first word, of both, of a further word."""

    tower: float
    prefill: float
    first: float
    word: float


def measure_times(exam: Example, rows: Sequence[Row]) -> list[Times]:
    """Of the exam's example under every row, all rows in turn; the medians over the rounds."""
    phases = [field.name for field in fields(Times)]
    return [
        Times(*(median(clock.milliseconds(phase)) for phase in phases))
        for clock in clocked(exam, rows)
    ]


@torch.inference_mode()
def clocked(exam: Example, rows: Sequence[Row]) -> list[Clock]:
    """The exam's example run under every row, all rows in turn."""
    clocks = [Clock(exam, row) for row in rows]
    device = next(exam.model(rows[0].kernel).parameters()).device
    total = len(clocks) * exam.rounds
    with tqdm(total=total, desc="speed, in turn", leave=False, delay=1) as bar:
        interleave(
            {str(number): clock.attached for number, clock in enumerate(clocks)},
            {str(number): clock.call for number, clock in enumerate(clocks)},
            device=device, rounds=exam.rounds, seconds=exam.seconds, progress=bar.update,
        )  # fmt: skip
    return clocks


class Clock:
    """Runs a row, and keeps what each call takes; to ``generate`` it is a streamer.

    What the tower takes is subtracted call by call: it varies by more than a short prefill takes.
    """

    def __init__(self, exam: Example, row: Row) -> None:
        self.exam, self.row, self.model = exam, row, exam.model(row.kernel)
        self.inputs, self.words = exam.example(row), exam.words
        self.rounds: list[list[Times]] = []
        self.moments: list[float] = []
        self.tower = 0.0

    def milliseconds(self, phase: str) -> list[float]:
        """What a phase took in each round, the median of its calls."""
        return [median(getattr(call, phase) for call in calls) for calls in self.rounds]

    @contextmanager
    def attached(self) -> Generator[None]:
        """The model as the row has it, its tower clocked."""
        model = self.exam.model(self.row.kernel)
        parts = parts_of(model)
        tower, began = parts.core.get_submodule(parts.family.tower), 0.0

        def begin(*_: object) -> None:
            nonlocal began
            began = self.now()

        def end(*_: object) -> None:
            self.tower += self.now() - began

        self.rounds.append([])
        handles = [tower.register_forward_pre_hook(begin), tower.register_forward_hook(end)]
        try:
            with self.row.attached(model, self.row.plans[0] if self.row.plans else None):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def call(self) -> None:
        """Write a first word behind the prompt, and some more."""
        self.moments, self.tower, words = [self.now()], 0.0, 1 + self.words
        self.model.generate(
            **self.inputs, max_new_tokens=words, min_new_tokens=words, do_sample=False,
            streamer=self,
        )  # fmt: skip
        start, _, word, *_, last = self.moments
        first = word - start
        seconds = self.tower, first - self.tower, first, (last - word) / self.words
        self.rounds[-1].append(Times(*(1e3 * one for one in seconds)))

    def put(self, _: object) -> None:
        """The prompt, then each word: what a streamer is told."""
        self.moments.append(self.now())

    def end(self) -> None:
        """No more words."""

    def now(self) -> float:
        """Seconds, after all that the device was told to do."""
        device = self.inputs["input_ids"].device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return perf_counter()
