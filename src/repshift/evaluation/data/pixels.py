"""Frames as the model wants them: resized, then normalised."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8
    from torch import Tensor

MEAN = (0.485, 0.456, 0.406)  # ImageNet's, of red, green and blue
STD = (0.229, 0.224, 0.225)


def resize(
    frames: UInt8[Tensor, "T 3 H W"], size: int, antialias: bool = False
) -> UInt8[Tensor, "T 3 S S"]:
    """Frames of ``size`` x ``size`` pixels, bicubic; the aspect ratio is not kept.

    As torchvision 0.13 resizes a uint8 tensor, with which UMT was trained and tested: computed in
    float32, cut off at 0 and 255, rounded (halves to even). Later versions smooth before they make
    smaller (``antialias``), which gives other pixels.
    """
    result = frames.new_empty((len(frames), 3, size, size))
    for source, target in zip(frames, result, strict=True):  # one at a time: floats are large
        pixels = F.interpolate(
            source[None].contiguous().float(), size=(size, size), mode="bicubic",
            align_corners=False, antialias=antialias,
        )  # fmt: skip
        target.copy_(pixels[0].clamp_(0, 255).round_())
    return result


def normalise(frames: UInt8[Tensor, "*B 3 H W"]) -> Float[Tensor, "*B 3 H W"]:
    """Pixels from 0 to 1, less ImageNet's mean, over its standard deviation; float32."""
    mean, std = (torch.tensor(v, device=frames.device)[:, None, None] for v in (MEAN, STD))
    return (frames.float() / 255).sub_(mean).div_(std)
