"""Smaller images for a model of transformers, which resamples its positions in each forward."""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any

from repshift.adapters.transformers.describe import runs

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

# By how the name of the class begins: these resample (or turn) their positions without being asked.
_ANY_SIZE = ("Dinov2", "DINOv3ViT")


def resizer(model: nn.Module) -> Callable[[nn.Module, int], None] | None:
    """What asks the model to interpolate its positions; None if it does not know how."""
    if runs(model).startswith(_ANY_SIZE):
        return lambda twin, size: None
    parameters = inspect.signature(type(model).forward).parameters
    return _interpolate if "interpolate_pos_encoding" in parameters else None


def _interpolate(model: Any, size: int) -> None:
    model.forward = partial(model.forward, interpolate_pos_encoding=True)
