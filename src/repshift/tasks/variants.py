"""The rows of a comparison: the dense model twice, and every method at every plan."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from repshift.attention import EagerAttention
from repshift.compress import compress
from repshift.compression import Compression
from repshift.method import from_label
from repshift.scores import SCORES, ClassAttention, ColumnAttention, Random, Score, Shift

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn

    from repshift.adapters.spec import EncoderSpec
    from repshift.plan import Plan

DENSE_EAGER = "dense, eager attention"
DENSE_FUSED = "dense, fused attention"
RANDOM_SEEDS = 5


@dataclass(frozen=True)
class Variant:
    """One way to run the model; dense without plans.

    Several plans differ in the random seed alone: their quality is averaged and the first is timed.
    """

    label: str
    schedule: str = ""
    plans: tuple[Plan, ...] = ()

    @contextmanager
    def attached(
        self, model: nn.Module, spec: EncoderSpec, number: int = 0
    ) -> Iterator[Compression | None]:
        """Inside, the model runs this way, by plan ``number``; afterwards it is as before."""
        if self.plans:
            with compress(model, self.plans[number], spec) as compression:
                yield compression
        elif self.label == DENSE_EAGER:
            with EagerAttention():
                yield None
        else:
            yield None


def default_scores(spec: EncoderSpec) -> list[Score]:
    """Attention (of the class token where there is one), random, and the shift both ways."""
    attention = ClassAttention() if spec.class_token else ColumnAttention()
    return [attention, Random(), Shift(definition="update"), Shift()]


def variants(
    spec: EncoderSpec, plans: Sequence[tuple[str, Plan]], methods: Sequence[str]
) -> list[Variant]:
    """Dense on eager and on fused attention, then each named plan with each score.

    ``methods`` are labels of scores, the default ones if empty. A plan that brings another score
    than the default keeps it as a further row. Random dropping is the mean of several seeds.
    """
    chosen = [from_label(SCORES, label) for label in methods] or default_scores(spec)
    rows = [Variant(DENSE_EAGER), Variant(DENSE_FUSED)]
    for name, plan in plans:
        scores = chosen if plan.score in (*chosen, Shift()) else [*chosen, plan.score]
        for score in scores:
            label, tried = str(score), [score]
            if score == Random():
                label = f"random, mean of {RANDOM_SEEDS} seeds"
                tried = [Random(seed) for seed in range(RANDOM_SEEDS)]
            rows.append(Variant(label, name, tuple(replace(plan, score=one) for one in tried)))
    return rows
