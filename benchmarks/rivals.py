"""The dense model on a smaller input of a subject: smaller images, fewer frames, shorter texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from repshift import Plan
from repshift.measure.flops import count_flops
from repshift.search.sizes import smaller_sizes


@dataclass(frozen=True, eq=False)
class Rival:
    """A dense model, and what it is given of what the others are given."""

    label: str
    model: nn.Module
    given: Callable[[Tensor], Tensor]


def rival_at(bench, share):
    """The one whose FLOPs are nearest to a share of the dense model's; None if there is none."""
    one = bench.meter.batches[0][:1]

    def flops(rival):
        given = rival.given(one)
        return bench.memo(
            f"FLOPs of dense on {rival.label}", lambda: count_flops(lambda: rival.model(given))[0]
        )

    spent = share * bench.cost.dense
    return min(_rivals(bench, one), key=lambda rival: abs(flops(rival) - spent), default=None)


def rate(bench, rival):
    """As ``Bench.rate``: share of the FLOPs, quality, fidelity and loss."""

    def rate():
        with torch.inference_mode():
            outputs = [rival.model(rival.given(batch)) for batch in bench.meter.batches]
        output = torch.cat(outputs).float().cpu()
        loss, fidelity = bench.meter.compare(output)
        share = bench.memo.known[f"FLOPs of dense on {rival.label}"] / bench.cost.dense
        return [share, bench.subject.quality(output, Plan({})), fidelity, loss]

    return bench.memo(f"dense on {rival.label}", rate)


def _rivals(bench, one):
    subject = bench.subject
    if subject.fewer is None:
        return [
            Rival(f"{size.side} pixels", size.model, size.prepare)
            for size in smaller_sizes(bench.model, one)
        ]
    return [
        Rival(f"{count} {subject.parts}", bench.model, partial(subject.fewer, count))
        for count in range(1, one.shape[1])
    ]
