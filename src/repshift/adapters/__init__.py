"""Knowledge of models: where a family keeps its blocks, norms, prefix tokens and positions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from torch import nn

from repshift.adapters.spec import EncoderSpec, Pooling
from repshift.errors import InputError

if TYPE_CHECKING:
    from repshift.resnet.spec import ResNetSpec

__all__ = ["EncoderSpec", "Pooling", "describe", "register_adapter"]

# Each has a module of its name here, imported when a model of that library is described.
LIBRARIES = ("timm", "torchvision", "open_clip", "transformers")
_REGISTERED: dict[str, Callable[[nn.Module], EncoderSpec | ResNetSpec]] = {}


def register_adapter(
    module_prefix: str, describe: Callable[[nn.Module], EncoderSpec | ResNetSpec]
) -> None:
    """Let ``compress`` and ``describe`` recognise the models of a package.

    Args:
        module_prefix: The package or module whose classes ``describe`` knows, such as
            ``"my_models.vit"``. Where several prefixes match a class, the longest is taken.
            Registering a prefix again replaces its adapter.
        describe: Returns the spec of a model whose class, or a base class of it, is defined there;
            raises ``InputError`` with the reason if that model cannot drop tokens.
    """
    _REGISTERED[module_prefix] = describe


def describe(model: nn.Module) -> EncoderSpec | ResNetSpec:
    """Find the adapter of ``model`` and ask it.

    The first class of the model's method resolution order that an adapter knows decides.

    Raises:
        InputError: No adapter knows the model, or it cannot drop tokens; with the reason.
    """
    check_model(model)
    if (prefix := _prefix(model)) is not None:
        return _adapter(prefix)(model)
    raise InputError(
        f"{type(model).__module__}.{type(model).__name__} is not a model repshift knows; those of "
        f"{', '.join(LIBRARIES)} are. {_held(model)}If its blocks take and return [B, N, C], pass "
        "spec=EncoderSpec(blocks=..., norm2=..., prefix_tokens=...)"
    )


def check_model(model: Any) -> None:
    """``InputError`` with what to pass instead if it is no module."""
    if not isinstance(model, nn.Module):
        inner = isinstance(getattr(model, "model", None), nn.Module)
        raise InputError(
            f"the model is a {type(model).__name__}; pass a torch.nn.Module"
            + (", such as the one it holds as .model" if inner else "")
        )


def resizer(model: nn.Module) -> Callable[[nn.Module, int], None] | None:
    """What makes a copy of ``model`` one for images of another size; None where nothing does."""
    prefix = _prefix(model)
    own = import_module(f"repshift.adapters.{prefix}") if prefix in LIBRARIES else None
    if own is not None and (resize := own.resizer(model)):
        return resize
    if hasattr(model, "set_input_size"):  # as timm calls it
        return lambda twin, size: twin.set_input_size(img_size=size)  # type: ignore[operator]
    return None


def _prefix(model: nn.Module) -> str | None:
    """The package whose adapter knows the model's class, or the first base class that one knows."""
    for kind in type(model).__mro__:
        matching = [name for name in (*LIBRARIES, *_REGISTERED) if _defined_in(kind, name)]
        if matching:
            return max(matching, key=len)
    return None


def _defined_in(kind: type, prefix: str) -> bool:
    return f"{kind.__module__}.".startswith(f"{prefix}.")


def _held(model: nn.Module) -> str:
    """Which part of a model can be compressed, as a sentence; nothing if none can."""
    for path, part in model.named_modules():
        if (adapter := _adapter_of(part)) is not None:
            with suppress(InputError):
                adapter(part)
                return f"It holds a {type(part).__name__}: compress model.{path}. "
    return ""


def _adapter_of(model: nn.Module) -> Callable[[nn.Module], EncoderSpec | ResNetSpec] | None:
    for kind in type(model).__mro__:
        matching = [name for name in (*LIBRARIES, *_REGISTERED) if _defined_in(kind, name)]
        if matching:
            return _adapter(max(matching, key=len))
    return None


def _adapter(prefix: str) -> Callable[[nn.Module], EncoderSpec | ResNetSpec]:
    if prefix in _REGISTERED:
        return _REGISTERED[prefix]
    return import_module(f"repshift.adapters.{prefix}").describe
