"""The arguments of a module's forward: by name, however they are passed, and of the kept tokens."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from repshift.runtime.carriers import CuSeqlens

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from jaxtyping import Bool
    from torch import Tensor, nn

    from repshift.runtime.carriers import Carrier
    from repshift.runtime.trace import ForwardTrace


def parameters_of(module: nn.Module) -> tuple[str, ...]:
    """The names of what the module's forward takes, in order.

    Of its class: one that others have put in its place may take ``*args``.
    """
    return tuple(inspect.signature(type(module).forward).parameters)[1:]


def bind(names: Sequence[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments by the ``names`` of the parameters, however they came."""
    return {**_placed(names, args), **kwargs}


def rebind(
    names: Sequence[str], args: tuple[Any, ...], kwargs: Mapping[str, Any], new: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same arguments, in place or by name as they came, but for the ``new`` ones."""
    placed = {name: new.pop(name, arg) for name, arg in _placed(names, args).items()}
    return (*placed.values(), *args[len(names) :]), {**kwargs, **new}


def _placed(names: Sequence[str], args: tuple[Any, ...]) -> dict[str, Any]:
    """Those that came in place; the compiler of PyTorch 2.8 zips equal lengths alone."""
    count = min(len(names), len(args))
    return dict(zip(names[:count], args[:count], strict=True))


def gather_arguments(
    trace: ForwardTrace,
    block: int,
    given: Mapping[str, Any],
    carriers: Mapping[str, Carrier],
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Those named in ``carriers``, with the entries of the tokens that enter ``block``."""
    followed = {
        name: carrier
        for name, carrier in carriers.items()
        if carrier.implied or given.get(name) is not None
    }
    # The map is put together only where something must follow it.
    if not followed or (so_far := trace.map_after(block - 1)) is None:
        return {}
    kept, segments = so_far.kept.to(device), trace.segments_after(block - 1)
    new = {
        name: carrier.follow(given.get(name), kept, trace.segments_after(-1), segments)
        for name, carrier in followed.items()
    }
    for name, carrier in followed.items():
        if isinstance(carrier, CuSeqlens) and given.get(carrier.longest) is not None:
            new[carrier.longest] = int(new[name].diff().max())
    return new


def padding_among(
    given: Mapping[str, Any], carriers: Mapping[str, Carrier], tokens: Tensor
) -> Bool[Tensor, "B N"] | None:
    """The padding that the first mask among the arguments tells; None without a mask."""
    for name, carrier in carriers.items():
        if given.get(name) is not None:
            padding = carrier.padding(given[name])
            if padding is not None:
                return padding.expand(tokens.shape[:2])
    return None
