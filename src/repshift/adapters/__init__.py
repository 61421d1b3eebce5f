"""Knowledge of models: where a family keeps its blocks, norms, prefix tokens and positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repshift.adapters.spec import EncoderSpec, Pooling
from repshift.errors import InputError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["EncoderSpec", "Pooling", "describe"]


def describe(model: nn.Module) -> EncoderSpec:
    """Find the adapter of ``model`` and ask it; ``InputError`` with the reason if there is none."""
    libraries = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    if "timm" in libraries:
        from repshift.adapters import timm

        return timm.describe(model)
    if "transformers" in libraries:
        from repshift.adapters import transformers

        return transformers.describe(model)
    raise InputError(
        f"{type(model).__module__}.{type(model).__name__} is not a model repshift knows; "
        "those of timm and transformers are. If it holds one, compress that part; if its blocks "
        "take and return [B, N, C], pass spec=EncoderSpec(blocks=..., norm2=..., prefix_tokens=...)"
    )
