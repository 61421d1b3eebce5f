"""The rival that every comparison shows: the dense model on a smaller input at equal FLOPs."""

from __future__ import annotations

from bisect import bisect_left
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

    cost = cache(lambda side: _flops(of_images(model, side), model, spec, image))
    with torch.inference_mode():
        rows = [
            Variant("", plans=(plan,))
            if plan.input_size is None
            else of_images(model, plan.input_size, plan)
            for plan in plans
        ]
        chosen = {_nearest(sides, cost, _flops(row, model, spec, image)) for row in rows}
    return [of_images(model, side) for side in sorted(chosen, reverse=True)], ""


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

    cost = cache(lambda count: _flops(of_frames(model, count, frames), model, spec, video))
    spent = [
        _flops(
            Variant("", plans=(plan,))
            if plan.frames is None
            else of_frames(model, plan.frames, frames, plan),
            model, spec, video,
        )
        for plan in plans
    ]  # fmt: skip
    chosen = {_nearest(range(1, frames), cost, one) for one in spent}
    return [of_frames(model, count, frames) for count in sorted(chosen, reverse=True)]


def of_images(model: nn.Module, side: int, plan: Plan | None = None, name: str = "") -> Variant:
    """The model on images of ``side`` pixels, dense or by a plan called ``name``."""
    return Variant(
        plan.method if plan else LABEL,
        f"{name}, {side} pixels" if name else f"{side} pixels",
        (plan,) if plan else (),
        input=f"{side} pixels",
        model=resized(model, side),
        given=partial(resize_images, size=side),
    )


def of_frames(
    model: nn.Module, count: int, of: int, plan: Plan | None = None, name: str = ""
) -> Variant:
    """The model on ``count`` of ``of`` frames of a video, dense or by a plan called ``name``."""
    return Variant(
        plan.method if plan else LABEL,
        f"{name}, {count} frames" if name else f"{count} frames",
        (plan,) if plan else (),
        input=f"{count} of {of} frames",
        model=thinned(model, count, of),
        given=partial(thin_videos, frames=count),
    )


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
