"""torchvision: its plain vision transformer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchvision.models import vision_transformer as vit

from repshift.adapters.spec import EncoderSpec
from repshift.errors import InputError

if TYPE_CHECKING:
    from torch import nn

_WINDOWS = "its attention runs inside fixed windows of the grid"
_REFUSED = {
    "SwinTransformer": _WINDOWS,
    "MaxVit": _WINDOWS,
    "MViT": "it pools its tokens on the grid from stage to stage",
}


def describe(model: nn.Module) -> EncoderSpec:
    """The spec of a torchvision model; ``InputError`` with the reason if it cannot lose tokens."""
    name = type(model).__name__
    known = isinstance(model, vit.VisionTransformer) and all(
        type(part).forward is kind.forward
        for part, kind in (
            (model, vit.VisionTransformer),
            (model.encoder, vit.Encoder),
            *((layer, vit.EncoderBlock) for layer in model.encoder.layers),
        )
    )
    if not known:
        reason = _REFUSED.get(name, "repshift has not read the forward of this model")
        raise InputError(
            f"torchvision's {name} cannot be compressed: {reason}. Use vit_b_16 and its like; for "
            "a model whose blocks take and return [B, N, C] alone, pass spec=EncoderSpec(...)"
        )
    blocks: list[Any] = list(model.encoder.layers)
    return EncoderSpec(
        blocks=blocks,
        norm2=[block.ln_2 for block in blocks],
        mlp=[block.mlp for block in blocks],
        prefix_tokens=1,
        class_token=True,
    )
