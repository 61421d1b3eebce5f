"""UMT's spec: that of its vision encoder, alone or in a whole model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repshift.adapters.spec import EncoderSpec
from repshift.errors import InputError
from repshift.evaluation.models.umt.vision import Block, VideoTokens, VisionEncoder

if TYPE_CHECKING:
    from torch import nn


def describe(model: nn.Module) -> EncoderSpec:
    """The spec of the vision encoder of ``model``; the text model keeps all its tokens.

    The pooling stays a plain mean, as in vid-TLDR.
    """
    encoder = getattr(model, "vision_encoder", model)
    if not isinstance(encoder, VisionEncoder | VideoTokens):
        raise InputError(
            f"{type(model).__module__}.{type(model).__name__} is not a model that loses tokens "
            "itself; if it holds one, compress that part"
        )
    blocks = [block for block in encoder.encoder.blocks if isinstance(block, Block)]
    return EncoderSpec(
        blocks=blocks,
        norm2=[block.norm2 for block in blocks],
        mlp=[block.mlp for block in blocks],
        prefix_tokens=0,
    )
