"""Knowledge of models: where a family keeps its blocks, norms, prefix tokens and positions."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from repshift.adapters.spec import EncoderSpec, Pooling
from repshift.errors import InputError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["EncoderSpec", "Pooling", "describe"]

# Where a model's class comes from, a library or a part of repshift, and the adapter that knows it.
_ADAPTERS = {
    "timm": "timm",
    "torchvision": "torchvision",
    "open_clip": "open_clip",
    "transformers": "transformers",
    "repshift.models.vim": "vim",
    "repshift": "umt",
}


def describe(model: nn.Module) -> EncoderSpec:
    """Find the adapter of ``model`` and ask it; ``InputError`` with the reason if there is none."""
    for kind in type(model).__mro__:
        for source, adapter in _ADAPTERS.items():
            if f"{kind.__module__}.".startswith(f"{source}."):
                return import_module(f"repshift.adapters.{adapter}").describe(model)
    raise InputError(
        f"{type(model).__module__}.{type(model).__name__} is not a model repshift knows; those of "
        f"{', '.join(name for name in _ADAPTERS if 'repshift' not in name)} are. If it holds one, "
        "compress that part; if its blocks take and return [B, N, C], pass "
        "spec=EncoderSpec(blocks=..., norm2=..., prefix_tokens=...)"
    )
