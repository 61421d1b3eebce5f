"""Fewer frames of a video for the same model, each with the positions that it has among all."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from repshift.adapters import check_model
from repshift.errors import InputError
from repshift.numbers import whole

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor, nn

    from repshift.plan import Plan

AnySpec = TypeVar("AnySpec")


def thinned(model: nn.Module, frames: int, of: int) -> nn.Module:
    """A model for ``frames`` of the ``of`` frames of a video; all weights are those of ``model``.

    A frame keeps the positions that it has among all: counted anew, they would tell the model of a
    shorter video.

    Args:
        model: A video model: UMT, or one of your own of which a module has the method
            ``set_frames(places, of)`` and says in ``frames`` how many were set, None before.
        frames: How many of the frames the model will be given, as ``thin_videos`` chooses them.
        of: How many frames there are.

    Returns:
        The other model; ``model`` stays as it is.

    Raises:
        InputError: If frames of the model cannot be left out, or there are not so many.
    """
    return thinned_with(model, None, frames, of)[0]


def thinned_with(
    model: nn.Module, spec: AnySpec, frames: int, of: int
) -> tuple[nn.Module, AnySpec]:
    """The same, with the spec whose blocks are those of the other model."""
    check_model(model)
    if _reader(model) is None:
        raise InputError(_NO_FRAMES.format(type(model).__name__))
    of = whole(of, "of", 1)
    places = middle_of_parts(whole(frames, "frames", 1, of), of)
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin, spec = copy.deepcopy((model, spec), shared)
    _reader(twin).set_frames(places, of)
    return twin, spec


def thin_videos(videos: Float[Tensor, "B T ..."], frames: int) -> Float[Tensor, "B t ..."]:
    """``frames`` frames of each video: those in the middle of as many equal parts."""
    of = videos.shape[1]
    places = middle_of_parts(whole(frames, "frames", 1, of), of)
    return videos.index_select(1, torch.tensor(places, device=videos.device))


def middle_of_parts(count: int, of: int) -> list[int]:
    """The places of ``count`` frames among ``of``."""
    return [(2 * part + 1) * of // (2 * count) for part in range(count)]


def has_frames(model: nn.Module) -> bool:
    """Whether ``thinned`` takes the model."""
    return _reader(model) is not None


def check_frames(plan: Plan, model: nn.Module) -> None:
    """``InputError`` if the plan is for another number of frames than the model."""
    if plan.frames is None:
        return
    reader = _reader(model)
    if reader is None:
        raise InputError(_NO_FRAMES.format(type(model).__name__))
    if reader.frames != plan.frames:
        raise InputError(
            f"the plan is for {plan.frames} frames of a video; compress repshift.thinned(model, "
            f"{plan.frames}, of=...), and give it repshift.thin_videos(videos, {plan.frames})"
        )


_NO_FRAMES = "{} has no way to leave out frames of a video (set_frames); use plans without frames"


def _reader(model: nn.Module) -> Any:
    """The module of the model that knows of frames, None where there is none."""
    return next((part for part in model.modules() if hasattr(part, "set_frames")), None)
