"""torchvision: its plain vision transformer."""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision.models import vision_transformer as vit

from repshift.adapters.spec import EncoderSpec
from repshift.errors import InputError

_WINDOWS = "its attention runs inside fixed windows of the grid"
_REFUSED = {
    "SwinTransformer": _WINDOWS,
    "MaxVit": _WINDOWS,
    "MViT": "it pools its tokens on the grid from stage to stage",
}


def describe(model: nn.Module) -> EncoderSpec:
    """The spec of a torchvision model; ``InputError`` with the reason if it cannot lose tokens."""
    name = type(model).__name__
    known = isinstance(model, vit.VisionTransformer)
    blocks: list[Any] = list(model.encoder.layers) if known else []
    parts: list[tuple[Any, Any]] = [(model, vit.VisionTransformer)]
    if known:
        parts.append((model.encoder, vit.Encoder))
    parts += [(block, vit.EncoderBlock) for block in blocks]
    parts += [(block.self_attention, nn.MultiheadAttention) for block in blocks]
    if not known or any(type(part).forward is not kind.forward for part, kind in parts):
        reason = _REFUSED.get(name, "repshift has not read the forward of this model")
        raise InputError(
            f"torchvision's {name} cannot be compressed: {reason}. Use vit_b_16 and its like; for "
            "a model whose blocks take and return [B, N, C] alone, pass spec=EncoderSpec(...)"
        )
    return EncoderSpec(
        blocks=blocks,
        norm2=[block.ln_2 for block in blocks],
        mlp=[block.mlp for block in blocks],
        prefix_tokens=1,
        class_token=True,
    )
