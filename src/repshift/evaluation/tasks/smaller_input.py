"""The rival that every comparison shows: the dense model on a smaller input at equal FLOPs."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING

import torch

from repshift.errors import InputError
from repshift.evaluation.tasks.variants import Variant
from repshift.input_frames import thin_videos, thinned
from repshift.input_size import image_sides, resize_images, resized
from repshift.measure.flops import count_flops

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from jaxtyping import Float
    from torch import Tensor, nn

    from repshift.adapters.spec import EncoderSpec
    from repshift.plan import Plan
    from repshift.resnet.spec import ResNetSpec

LABEL = "dense, smaller input"


def smaller_images(
    model: nn.Module,
    spec: EncoderSpec | ResNetSpec,
    plans: Iterable[Plan],
    images: Float[Tensor, "B C H W"],
) -> tuple[list[Variant], str]:
    """The dense model on smaller images, at the size that costs most nearly what each plan does.

    Args:
        model: The dense model.
        spec: Its spec.
        plans: Those that are compared; FLOPs are counted in a forward of each.
        images: Some images for the model, square.

    Returns:
        A row for each size, the largest first, and why there is none, if so.
    """
    image, full = images[:1], images.shape[-1]
    if image.shape[-2] != full:
        return [], "its images are not square"
    try:
        sides = image_sides(model, full)
    except InputError as error:
        return [], str(error)

    dense = Variant(LABEL)
    cost = cache(lambda side: _flops(of_images(dense, model, side), model, spec, image))
    with torch.inference_mode():
        rows = [at_its_size(Variant("", plans=(plan,)), model) for plan in plans]
        chosen = {_nearest(sides, cost, _flops(row, model, spec, image)) for row in rows}
    return [of_images(dense, model, side) for side in sorted(chosen, reverse=True)], ""


def fewer_frames(
    model: nn.Module,
    spec: EncoderSpec,
    plans: Iterable[Plan],
    videos: Float[Tensor, "B T 3 S S"],
) -> list[Variant]:
    """The dense model on fewer frames, as many as cost most nearly what each plan does."""
    video, frames = videos[:1], videos.shape[1]
    if frames < 2:
        return []

    dense = Variant(LABEL)
    cost = cache(lambda count: _flops(of_frames(dense, model, count, frames), model, spec, video))
    rows = [at_its_frames(Variant("", plans=(plan,)), model, frames) for plan in plans]
    chosen = {_nearest(range(1, frames), cost, _flops(row, model, spec, video)) for row in rows}
    return [of_frames(dense, model, count, frames) for count in sorted(chosen, reverse=True)]


def at_its_size(row: Variant, model: nn.Module) -> Variant:
    """The row, on images of the size that its plans are for."""
    side = row.plans[0].input_size if row.plans else None
    return row if side is None else of_images(row, model, side)


def at_its_frames(row: Variant, model: nn.Module, of: int) -> Variant:
    """The row, on as many ``of`` the frames of a video as its plans are for."""
    count = row.plans[0].frames if row.plans else None
    return row if count is None else of_frames(row, model, count, of)


def of_images(row: Variant, model: nn.Module, side: int) -> Variant:
    """The row, on images of ``side`` pixels."""
    return replace(
        row,
        schedule=_with(row.schedule, f"{side} pixels"),
        input=f"{side} pixels",
        model=resized(model, side),
        given=partial(resize_images, size=side),
    )


def of_frames(row: Variant, model: nn.Module, count: int, of: int) -> Variant:
    """The row, on ``count`` of ``of`` frames of a video."""
    return replace(
        row,
        schedule=_with(row.schedule, f"{count} frames"),
        input=f"{count} of {of} frames",
        model=thinned(model, count, of),
        given=partial(thin_videos, frames=count),
    )


def _with(schedule: str, size: str) -> str:
    return f"{schedule}, {size}" if schedule else size


def _nearest(choices: Sequence[int], cost: Callable[[int], float], spent: float) -> int:
    """The one whose cost is nearest; costs rise with the choices."""
    above = bisect_left(choices, spent, key=cost)
    near = choices[max(above - 1, 0) : above + 1]
    return min(near, key=lambda choice: abs(cost(choice) - spent))


def _flops(row: Variant, model: nn.Module, spec: EncoderSpec | ResNetSpec, given: Tensor) -> float:
    """What one forward of a row costs."""
    own, its = row.model or model, row.given(given)
    with row.attached(model, spec):
        return count_flops(lambda: own(its))[0]
