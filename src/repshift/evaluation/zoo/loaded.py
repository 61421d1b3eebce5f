"""A model with everything needed to feed and draw it, and which weights were asked for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from repshift.errors import InputError
from repshift.input_size import patch_side, resize_images, resized

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from jaxtyping import Float
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True)
class Wanted:
    """Which weights a model gets, those of its name, of a file or untrained ones, and its settings.

    ``settings`` are further arguments of what makes the model (``--model-args``).
    """

    checkpoint: Path | None = None
    random_weights: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.random_weights and self.checkpoint is not None:
            raise InputError(
                f"--random-weights and --checkpoint {self.checkpoint} exclude each other; leave "
                "one out"
            )


@dataclass(frozen=True)
class LoadedModel:
    """A model and how images reach it.

    ``prepare`` makes an image [C, H, W] for the model and ``mean`` and ``std`` undo its
    normalisation for drawing. ``classes`` is 0 if the model gives a pooled feature instead of
    logits. ``decode`` draws maps [B, H, W] from all tokens [B, N, C], where the model has such a
    decoder. ``grid`` is the rows and columns of patches, (1, 1) of a ResNet. ``plan`` is where
    tokens leave if no plan is named. ``prepare`` is sent to processes that read ahead, so it is
    no function inside another.
    """

    name: str
    model: nn.Module
    prepare: Callable[[Image], Float[Tensor, "C H W"]]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int
    grid: tuple[int, int]
    decode: Callable[[Float[Tensor, "B N C"]], Float[Tensor, "B H W"]] | None = None
    plan: str = "deit"

    def picture(self, image: Float[Tensor, "C H W"]) -> Float[Tensor, "H W 3"]:
        """The image as it looked before normalisation, values from 0 to 1."""
        shape = (-1, 1, 1)
        pixels = image.float().cpu() * torch.tensor(self.std).view(shape)
        pixels = (pixels + torch.tensor(self.mean).view(shape)).clamp(0, 1)
        return pixels.permute(1, 2, 0).expand(-1, -1, 3)

    def at(self, side: int | None) -> LoadedModel:
        """The same for images of ``side`` pixels, as a plan's ``input_size`` says; None: itself.

        What ``prepare`` gives is then made smaller; maps are drawn at the model's own size alone.
        """
        if side is None:
            return self
        model = resized(self.model, side)
        return replace(
            self,
            model=model,
            prepare=Smaller(self.prepare, side),
            grid=grid_of(model, (side, side)),
            decode=None,
        )


@dataclass(frozen=True)
class Smaller:
    """What ``prepare`` makes of an image, at ``side`` pixels."""

    prepare: Callable[[Image], Float[Tensor, "C H W"]]
    side: int

    def __call__(self, image: Image) -> Float[Tensor, "C S S"]:
        """The image for the resized model."""
        return resize_images(self.prepare(image)[None], self.side)[0]


def grid_of(model: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of patches in images of ``size``, height first."""
    own = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    rows, columns = own or (pixels // patch_side(model) for pixels in size)
    return int(rows), int(columns)


def classes_of(model: nn.Module) -> int:
    """How many classes the model's last layer tells apart; 0 if it gives features."""
    known: Any = getattr(model, "num_classes", None)
    if known is not None:
        return int(known)
    heads = [getattr(model, name, None) for name in ("heads", "head", "fc", "classifier")]
    layers = [layer for head in heads if isinstance(head, nn.Module) for layer in head.modules()]
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    return linear[-1].out_features if linear else 0
