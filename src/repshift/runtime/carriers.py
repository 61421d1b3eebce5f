"""The arguments of a block that hold one entry a token: they follow the tokens."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch

from repshift.errors import InputError
from repshift.sequence.token_map import follow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Bool
    from torch import Tensor, nn

    from repshift.runtime.trace import ForwardTrace
    from repshift.sequence.segments import Packing

# What turns no token: sine 0, cosine 1. One rotary table holds sines, then cosines; a tuple of them
# holds cosines and sines in turn.
SIN_COS, COS_SIN = (0.0, 1.0), ((1.0,), (0.0,))


def parameters_of(module: nn.Module) -> tuple[str, ...]:
    """The names of what the module's forward takes, in order."""
    return tuple(inspect.signature(module.forward).parameters)


def bind(names: Sequence[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments by the ``names`` of the parameters, however they came."""
    return {**dict(zip(names, args, strict=False)), **kwargs}


def rebind(
    names: Sequence[str], args: tuple[Any, ...], kwargs: Mapping[str, Any], new: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same arguments, in place or by name as they came, but for the ``new`` ones."""
    placed = tuple(new.pop(name, arg) for name, arg in zip(names, args, strict=False))
    return placed + args[len(names) :], {**kwargs, **new}


def gather_arguments(
    trace: ForwardTrace, block: int, given: Mapping[str, Any], layouts: Mapping[str, str]
) -> dict[str, Any]:
    """Those named in ``layouts``, with the entries of the tokens that enter ``block``."""
    tables = {name: given[name] for name in layouts if given.get(name) is not None}
    # The map is put together only where something must follow it.
    if not tables or (so_far := trace.map_after(block - 1)) is None:
        return {}

    packing = trace.packing_after(block - 1)

    def follows(table: Tensor, layout: str, unturned: Sequence[float]) -> Tensor:
        table = follow(table, so_far.kept.to(table.device), trace.dense, layout)
        return table if packing is None else end_to_end(table, layout, packing, unturned)

    return {
        name: tuple(
            follows(part, layouts[name], COS_SIN[place % 2]) for place, part in enumerate(table)
        )
        if isinstance(table, tuple)
        else follows(table, layouts[name], SIN_COS)
        for name, table in tables.items()
    }


def end_to_end(table: Tensor, layout: str, packing: Packing, unturned: Sequence[float]) -> Tensor:
    """A table with one entry a token, for images that lie end to end in one sequence.

    A rotary table may have no entries for the prefix tokens, of which the model then turns none of
    the first image's; those of the others get ``unturned``, once for each half of the channels.
    """
    axis = layout.find("n")
    if len(table) == table.shape[axis] == 1:
        return table
    missing = packing.longest - table.shape[axis]
    if layout.count("n") > 1 or (missing and not layout.endswith("r")):
        raise InputError(
            "an adaptive budget keeps images end to end in one sequence, for which this model "
            "takes no attention mask; use a fixed budget"
        )
    table = table.movedim(axis, 1)
    if missing:
        row = table.new_tensor(unturned).repeat_interleave(table.shape[-1] // len(unturned))
        prefix = row.expand(len(table), missing, *table.shape[2:])
        table = torch.cat((prefix, table), dim=1)
    return packing.pack(table)[:, missing:].movedim(1, axis)


def padding_among(
    given: Mapping[str, Any], layouts: Mapping[str, str], tokens: Tensor
) -> Bool[Tensor, "B N"] | None:
    """The padding that the first mask among the arguments tells; None without a mask."""
    for name, layout in layouts.items():
        if layout in ("bhnn", "bn") and (mask := given.get(name)) is not None:
            return padding_of(mask, layout).expand(tokens.shape[:2])
    return None


def padding_of(mask: Tensor, layout: str) -> Bool[Tensor, "B N"]:
    """The tokens that no query sees: of an attention mask ``bhnn`` or a padding mask ``bn``.

    Masks are true, or not zero, where a token is seen; floating ones are added to the logits.
    """
    if layout == "bn":
        return mask == 0
    mask = mask[(None,) * (4 - mask.ndim)]
    if mask.dtype.is_floating_point:
        mask = mask > torch.finfo(mask.dtype).min / 2
    return ~mask.any(dim=2).any(dim=1)
