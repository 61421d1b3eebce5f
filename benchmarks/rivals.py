"""The dense model on a smaller input of a subject: smaller images, fewer frames, shorter texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from repshift import EncoderSpec, Plan
from repshift.input_size import input_in_words
from repshift.measure.flops import count_flops
from repshift.search.sizes import Sized, smaller_sizes


@dataclass(frozen=True, eq=False)
class Rival:
    """A dense model, what it is given of what the others are given, and the plan that says so.

    Without a ``spec`` nothing is dropped there too.
    """

    label: str
    model: nn.Module
    given: Callable[[Tensor], Tensor]
    spec: EncoderSpec | None = None
    plan: Plan = Plan({})  # noqa: RUF009  (frozen)

    @classmethod
    def of(cls, sized: Sized) -> Rival:
        plan = sized.of(Plan({}))
        return cls(input_in_words(plan), sized.model, sized.prepare, sized.spec, plan)

    @property
    def key(self) -> str:
        """By what its figures are found."""
        return self.plan.identity if self.spec else f"dense on {self.label}"


def rivals(subject, inputs: Tensor) -> list[Rival]:
    """All smaller inputs of a subject, the largest first."""
    if subject.smaller is not None:
        return subject.smaller()
    return [Rival.of(sized) for sized in smaller_sizes(subject.model, inputs)]


def flops(rival: Rival, inputs: Tensor, memo) -> float:
    """Of one input."""
    run = partial(rival.model, rival.given(inputs[:1]))
    return memo(f"FLOPs of dense on {rival.label}", lambda: count_flops(run)[0])


def rival_at(bench, share):
    """The one whose FLOPs are nearest to a share of the dense model's; None if there is none."""
    one = bench.meter.batches[0][:1]
    spent = share * bench.cost.dense
    return min(
        rivals(bench.subject, one),
        key=lambda rival: abs(flops(rival, one, bench.memo) - spent),
        default=None,
    )


def rate(bench, rival):
    """As ``Bench.rate``: share of the FLOPs, quality, fidelity and loss."""

    def rate():
        with torch.inference_mode():
            outputs = [rival.model(rival.given(batch)) for batch in bench.meter.batches]
        output = torch.cat(outputs).float().cpu()
        loss, fidelity = bench.meter.compare(output)
        share = flops(rival, bench.meter.batches[0], bench.memo) / bench.cost.dense
        return [share, bench.subject.quality(output, rival.plan), fidelity, loss]

    return bench.memo(f"dense on {rival.label}", rate)
