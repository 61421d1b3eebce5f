"""How a model of transformers is recognised: by the very forward that it runs."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from repshift.errors import InputError

if TYPE_CHECKING:
    from torch import nn

UNREAD = "repshift has not read the forward of"


def runs(module: nn.Module) -> str:
    """The name of the class in transformers whose forward the module runs; none of another's."""
    forward = inspect.unwrap(type(module).forward)
    name = forward.__qualname__.removesuffix(".forward")
    return name if forward.__module__.startswith("transformers.models.") else ""


def at(module: nn.Module, path: str) -> Any:
    """The part of ``module`` at ``path``."""
    try:
        return module.get_submodule(path)
    except AttributeError:
        name = type(module).__name__
        raise InputError(
            f"transformers' {name} has no {path}; repshift has read it in transformers 5.23"
        ) from None


def cannot(model: nn.Module, reason: str) -> str:
    """The sentence that refuses ``model``."""
    return f"transformers' {type(model).__name__} cannot be compressed: {reason}"
