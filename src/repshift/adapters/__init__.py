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
    if "repshift" in libraries:
        from repshift.adapters import umt

        return umt.describe(model)
    raise InputError(
        f"{type(model).__module__}.{type(model).__name__} is not a model repshift knows; "
        "timm's and UMT are. If it holds one, compress that part; if its blocks take and return "
        "[B, N, C], pass spec=EncoderSpec(blocks=..., norm2=..., prefix_tokens=...)"
    )
