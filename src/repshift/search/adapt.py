"""``repshift.adapt``: a budget per image that costs, on average, what a fixed plan costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from repshift.adapters import describe
from repshift.compress import compress
from repshift.errors import InputError
from repshift.numbers import whole
from repshift.plan_given import PlanLike, as_plan
from repshift.resnet.spec import ResNetSpec
from repshift.sequence.amounts import Level
from repshift.sequence.levels import levels

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from jaxtyping import Float
    from torch import Tensor, nn

    from repshift.adapters.spec import EncoderSpec
    from repshift.plan import Plan


def adapt(
    model: nn.Module,
    plan: PlanLike,
    images: Float[Tensor, "N ..."] | Sequence[Mapping[str, Any]],
    *,
    batch_size: int = 16,
    spec: EncoderSpec | None = None,
) -> Plan:
    """The plan of levels by which as many tokens are dropped on average as by ``plan``.

    Block after block the amount becomes the ``Level`` up to which that many are dropped. The
    ``images``, ready for the model, need no labels; some dozens do. Of a model that takes more than
    images (a tower of Qwen-VL and its ``grid_thw``), what each call is given by name.

    Raises ``InputError`` if ``plan`` has levels already, or does not fit the model.
    """
    plan, batch_size = as_plan(plan), whole(batch_size, "batch_size", 1)
    if plan.adaptive:
        raise InputError("adapt takes a plan of shares and counts; this one has levels already")
    if not isinstance(images, torch.Tensor | Sequence):
        raise InputError(
            f"images is a {type(images).__name__}; expected a tensor [N, C, H, W], or a list of "
            "what each call is given by name"
        )
    if not len(images):
        raise InputError("adapt needs an image or more, got none")
    known = spec or describe(model)
    if isinstance(known, ResNetSpec):
        raise InputError("a ResNet drops the same rows and columns of every image: use shares")
    tensors = isinstance(images, torch.Tensor)
    batches = images.split(batch_size) if tensors else images
    found: dict[int, Level] = {}
    left: list[int] = []
    for block in plan.drop:
        trial = replace(plan, drop={**found, block: Level(0.5)})
        level, lengths = _levels_at(block, trial, model, batches, known)
        left = left or lengths
        leaving = [plan.leaving(block, patches) // known.unit for patches in left]
        stay = [n - known.unit * gone for n, gone in zip(left, leaving, strict=True)]
        if count := sum(leaving):
            # Between the last that leaves and the first that stays.
            value = level[count - 1 :][:2].mean().item()
            if value >= 1:
                raise InputError(
                    f"the plan drops {_mean(leaving)} of {_mean(left, known.unit)} patch tokens at "
                    f"block {block}, more than {plan.score} tells apart; let at most half leave at "
                    "once"
                )
            found[block] = Level(value)
        left = stay
    return replace(plan, drop=found)


def _mean(counts: list[int], unit: int = 1) -> int:
    return round(sum(counts) / len(counts) / unit)


def _levels_at(
    block: int,
    plan: Plan,
    model: nn.Module,
    batches: Iterable[Tensor | Mapping[str, Any]],
    spec: EncoderSpec,
) -> tuple[Float[Tensor, " M"], list[int]]:
    """The levels at ``block`` of all tokens that may leave there, of all images, in order.

    And how many patch tokens of each image came there.
    """
    found, lengths = [], []
    with compress(model, plan, spec) as compression, torch.inference_mode():
        for batch in batches:
            _ = model(**batch) if isinstance(batch, Mapping) else model(batch)
            scores = compression.scores[block].unflatten(1, (-1, spec.unit)).mean(2)
            found.append(levels(scores, plan.score).flatten().cpu())
            came = compression._last_trace().segments_after(block - 1).lengths
            lengths += (came - spec.staying).tolist()
    level = torch.cat(found)
    return level[level.isfinite()].sort().values, lengths
