"""A model of transformers as the commands call one: images in, logits or a pooled feature out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from repshift.adapters import describe, register_adapter
from repshift.errors import InputError
from repshift.input_size import resized

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from repshift.adapters.spec import EncoderSpec
    from repshift.resnet.spec import ResNetSpec


class Reading(nn.Module):
    """Calls ``model`` and gives its logits, else the embedding, pooled feature or class token."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @property
    def config(self) -> Any:
        """The model's own, of its vision part; it holds the side of a patch."""
        config: Any = self.model.config
        return getattr(config, "vision_config", config)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """The output of an image each."""
        output = self.model(pixel_values=images)
        for name in ("logits", "image_embeds", "pooler_output"):
            if (found := getattr(output, name, None)) is not None:
                return found
        return output.last_hidden_state[:, 0]  # the class token, see ``check_reads``

    def set_input_size(self, img_size: int) -> None:
        """As timm's models have it."""
        self.model = resized(self.model, img_size)


def check_reads(model: nn.Module, name: str) -> None:
    """``InputError`` if the model has no output that stands for an image."""
    spec = describe(model)
    pools = getattr(model, "pooler", None) is not None or getattr(spec, "readers", ())
    classifies = any("classifier" in part for part, _ in model.named_children())
    if not (classifies or pools or getattr(spec, "class_token", False)):
        raise InputError(
            f"{name} gives tokens and neither logits nor a pooled feature; take a classifier, or a "
            "function of your own that pools them (--model MODULE:FUNCTION)"
        )


def _describe(model: nn.Module) -> EncoderSpec | ResNetSpec:
    assert isinstance(model, Reading)
    return describe(model.model)


register_adapter(__name__, _describe)
