"""``repshift.adapt``: a budget per image that costs, on average, what a fixed plan costs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from repshift.compress import compress
from repshift.errors import InputError
from repshift.sequence.amounts import Level
from repshift.sequence.levels import levels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from torch import Tensor, nn

    from repshift.adapters.spec import EncoderSpec
    from repshift.plan import Plan


def adapt(
    model: nn.Module,
    plan: Plan,
    images: Float[Tensor, "N ..."],
    *,
    batch_size: int = 16,
    spec: EncoderSpec | None = None,
) -> Plan:
    """The plan of levels by which as many tokens are dropped on average as by ``plan``.

    Block after block the amount becomes the ``Level`` up to which that many are dropped. The
    ``images``, ready for the model, need no labels; some dozens do.

    Raises ``InputError`` if ``plan`` has levels already, or does not fit the model.
    """
    if plan.adaptive:
        raise InputError("adapt takes a plan of shares and counts; this one has levels already")
    if not len(images):
        raise InputError("adapt needs an image or more, got none")
    found: dict[int, Level] = {}
    left, unit = None, 1 if spec is None else spec.unit
    for block in plan.drop:
        trial = replace(plan, drop={**found, block: Level(0.5)})
        level = _levels_at(block, trial, model, images.split(batch_size), spec)
        if left is None:  # the highest of every image never leaves, and is not among the levels
            left = len(level) // len(images) + 1
        leaving = plan.leaving(block, left * unit) // unit
        left -= leaving
        if leaving:
            # Between the last that leaves and the first that stays.
            value = level[leaving * len(images) - 1 :][:2].mean().item()
            if value >= 1:
                raise InputError(
                    f"the plan drops {leaving} of {left + leaving} patch tokens at block {block}, "
                    f"more than {plan.score} tells apart; let at most half leave at once"
                )
            found[block] = Level(value)
    return replace(plan, drop=found)


def _levels_at(
    block: int,
    plan: Plan,
    model: nn.Module,
    batches: Sequence[Tensor],
    spec: EncoderSpec | None,
) -> Float[Tensor, " M"]:
    """The levels at ``block`` of all tokens that may leave there, of all images, in order."""
    found, unit = [], 1 if spec is None else spec.unit  # of libraries no model has units
    with compress(model, plan, spec) as compression, torch.inference_mode():
        for batch in batches:
            model(batch)
            scores = compression.scores[block].unflatten(1, (-1, unit)).mean(2)
            found.append(levels(scores, plan.score).flatten().cpu())
    level = torch.cat(found)
    return level[level.isfinite()].sort().values
