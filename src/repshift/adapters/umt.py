"""UMT: its vision encoder, alone or in a whole model for retrieval or question answering."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repshift.errors import InputError
from repshift.models.umt.vision import VideoTokens, VisionEncoder, encoder_spec

if TYPE_CHECKING:
    from torch import nn

    from repshift.adapters.spec import EncoderSpec


def describe(model: nn.Module) -> EncoderSpec:
    """The spec of the vision encoder; the text model keeps all its tokens."""
    encoder = getattr(model, "vision_encoder", model)
    if not isinstance(encoder, VisionEncoder | VideoTokens):
        raise InputError(
            f"{type(model).__module__}.{type(model).__name__} is not a model that loses tokens "
            "itself; if it holds one, compress that part"
        )
    return encoder_spec(encoder)
