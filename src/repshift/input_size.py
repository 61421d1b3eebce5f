"""The other way to spend fewer tokens: smaller images for the same model."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from repshift.adapters import check_model, resizer
from repshift.errors import InputError
from repshift.numbers import whole

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jaxtyping import Shaped
    from torch import Tensor, nn

    from repshift.plan import Plan


def resized(model: nn.Module, size: int) -> nn.Module:
    """A model for images of ``size`` x ``size`` pixels.

    All weights are those of ``model`` itself but for tables of positions, which the model's own
    library resamples.

    Args:
        model: A vision model of timm, transformers, torchvision or open_clip, a convolutional one,
            or one of your own with timm's method ``set_input_size(img_size=...)``.
        size: Pixels of a side.

    Returns:
        The other model; ``model`` stays as it is.

    Raises:
        InputError: If the model does not run at another size, or not at this one.
    """
    check_model(model)
    size = whole(size, "the size of the images", 1)
    resize = resizer(model)
    if resize is None:
        if not hasattr(model, "conv1"):
            raise InputError(
                f"{type(model).__name__} has no way to change the size of its images (timm's "
                "set_input_size, transformers' interpolate_pos_encoding); use plans without "
                "input_size"
            )
        return model  # a ResNet takes images of any size
    if size % patch_side(model):
        raise InputError(
            f"{type(model).__name__} takes no images of {size} pixels, only of whole patches of "
            f"{patch_side(model)}"
        )
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, shared)
    try:
        resize(twin, size)
    except (AssertionError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{type(model).__name__} takes no images of {size} pixels: {error}"
        ) from None
    return twin


def image_sides(model: nn.Module, full: int) -> list[int]:
    """Sides below ``full`` that ``resized`` takes: whole patches, of a ResNet every 8 pixels.

    Raises ``InputError`` if there are none.
    """
    sides = list(range(patch_side(model), full, patch_side(model)))
    if not sides:
        raise InputError(f"images of {full} pixels are one patch")
    resized(model, sides[-1])
    return sides


def patch_side(model: nn.Module) -> int:
    """Pixels of a side of a patch; 8 where there are none."""
    holders: tuple[Any, ...] = (
        getattr(model, "patch_embed", None),
        getattr(model, "config", None),
        getattr(getattr(model, "trunk", None), "patch_embed", None),
        model,
    )
    patch = next((found for one in holders if (found := getattr(one, "patch_size", None))), 8)
    return max(patch) if isinstance(patch, tuple | list) else int(patch)


def resize_images(images: Shaped[Tensor, "B C H W"], size: int) -> Shaped[Tensor, "B C s s"]:
    """The same pictures with ``size`` x ``size`` pixels (bicubic, antialiased)."""
    size = whole(size, "the size of the images", 1)
    if images.shape[-2:] == (size, size):
        return images
    # The kernel for CPU takes no half precision.
    wide = images.to(torch.promote_types(images.dtype, torch.float32))
    small = F.interpolate(wide, (size, size), mode="bicubic", antialias=True)
    if not images.is_floating_point():  # beside an edge bicubic goes beyond black and white
        known = torch.iinfo(images.dtype)
        small = small.round_().clamp_(known.min, known.max)
    return small.to(images.dtype)


def input_in_words(plan: Plan) -> str:
    """The smaller input that a plan is for, ``182 pixels``; nothing where it is the model's own."""
    sizes = {"pixels": plan.input_size, "frames": plan.frames}
    return " and ".join(f"{size} {unit}" for unit, size in sizes.items() if size is not None)


def check_size(plan: Plan, given: Iterable[object]) -> None:
    """``InputError`` if a model is given other images than its plan is for."""
    size = plan.input_size
    if size is None:
        return
    for images in given:
        if isinstance(images, torch.Tensor) and images.ndim == 4:
            if images.shape[-2:] != (size, size):
                raise InputError(
                    f"the plan is for images of {size} x {size} pixels, and the model was given "
                    f"{images.shape[-2]} x {images.shape[-1]}; resize them "
                    f"(repshift.resize_images), and compress repshift.resized(model, {size})"
                )
            return
