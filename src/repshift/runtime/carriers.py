"""The arguments of a block that hold one entry a token: they follow the kept tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from repshift.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from torch import Tensor

    from repshift.sequence.segments import Segments

AXES = {"b": "image", "h": "head", "n": "token", "r": "channel of a rotation"}


@dataclass(frozen=True)
class Carrier:
    """A table with one entry a token, such as a bias of attention, gathered along every n.

    Attributes:
        axes: One letter an axis: ``b`` (image) first, then ``h`` (head), ``n`` (token) and ``r``
            (channel of a rotation) as they come; leading ones may be missing in the table. What
            has no b is of all images, and gets one since each keeps other tokens. An n
            shorter than the dense sequence has no entries for the prefix tokens, which are never
            dropped; one of length 1 broadcasts.
    """

    axes: str
    # Whether the argument stands for all places of the dense sequence when it is left out.
    implied: ClassVar[bool] = False

    def __post_init__(self) -> None:
        unknown = "".join(axis for axis in self.axes if axis not in AXES)
        if unknown or "n" not in self.axes:
            axes = ", ".join(f"{axis} ({meaning})" for axis, meaning in AXES.items())
            raise InputError(
                f"{type(self).__name__} has the axes {self.axes!r}; write one letter an axis, "
                f"{axes}, with at least one n, such as 'bhnn' for a bias of attention"
            )

    @property
    def full_axes(self) -> str:
        """The axes with that of the images."""
        return self.axes if self.axes.startswith("b") else f"b{self.axes}"

    def follow(
        self, table: Any, kept: Int[Tensor, "B K"], dense: Segments, segments: Segments
    ) -> Any:
        """The entries of the ``kept`` of the ``dense`` tokens, as ``segments`` has them lie."""
        if segments.packed:
            raise InputError(
                "with a level images lie end to end in one sequence, for which this model takes "
                "no attention mask; use shares or counts"
            )
        return self.gather(table, kept, dense.longest)

    def padding(self, mask: Any) -> Bool[Tensor, "B N"] | None:
        """The tokens that are none, where the table is a mask that tells it."""
        return None

    def gather(self, table: Tensor, kept: Int[Tensor, "B K"], dense: int) -> Tensor:
        """The table with all its axes, of the ``kept`` tokens alone."""
        kept = kept.to(table.device)
        table = table[(None,) * (len(self.full_axes) - table.ndim)]
        for dim, axis in enumerate(self.full_axes):
            length = table.shape[dim]
            if axis != "n" or length == 1:
                continue
            prefix = dense - length
            if not 0 <= prefix < kept.shape[1]:
                raise InputError(f"a positional table has {length} entries for {dense} tokens")
            shape = [kept.shape[0]] + [1] * (table.ndim - 1)
            shape[dim] = kept.shape[1] - prefix
            index = (kept[:, prefix:] - prefix).view(shape)
            table = table.expand(kept.shape[0], *table.shape[1:])
            others = [size if at != dim else -1 for at, size in enumerate(table.shape)]
            table = table.gather(dim, index.expand(others))
        return table


@dataclass(frozen=True)
class Rotary(Carrier):
    """A rotary table: one that holds sines, then cosines; or a tuple of cosines and sines."""

    axes: str = "bhnr"

    def follow(
        self, table: Any, kept: Int[Tensor, "B K"], dense: Segments, segments: Segments
    ) -> Any:
        # The rotation by zero: sine 0, cosine 1.
        if isinstance(table, tuple):
            turns = [((1.0,), (0.0,))[place % 2] for place in range(len(table))]
            both = zip(table, turns, strict=True)
            return tuple(
                self._follow(part, kept, dense.longest, segments, turn) for part, turn in both
            )
        return self._follow(table, kept, dense.longest, segments, (0.0, 1.0))

    def _follow(
        self,
        table: Tensor,
        kept: Int[Tensor, "B K"],
        dense: int,
        segments: Segments,
        unturned: tuple[float, ...],
    ) -> Tensor:
        table = self.gather(table, kept, dense)
        axis = self.full_axes.find("n")
        if not segments.packed or len(table) == table.shape[axis] == 1:
            return table
        # A table without entries for the prefix tokens: the model turns none of the first image's.
        # Those of the others get ``unturned``, once for each half of the channels.
        missing = segments.longest - table.shape[axis]
        table = table.movedim(axis, 1)
        if missing:
            row = table.new_tensor(unturned).repeat_interleave(table.shape[-1] // len(unturned))
            prefix = row.expand(len(table), missing, *table.shape[2:])
            table = torch.cat((prefix, table), dim=1)
        return segments.stream(table)[:, missing:].movedim(1, axis)


@dataclass(frozen=True)
class AttentionMask(Carrier):
    """A mask [B, H, N, N] of attention: true where a token is seen, or added to the logits."""

    axes: str = "bhnn"

    def padding(self, mask: Any) -> Bool[Tensor, "B N"]:
        """The tokens that no query attends to."""
        mask = mask[(None,) * (len(self.full_axes) - mask.ndim)]
        if mask.dtype.is_floating_point:
            mask = mask > torch.finfo(mask.dtype).min / 2
        while mask.ndim > 2:  # images first, keys last
            mask = mask.any(dim=-2)
        return ~mask


@dataclass(frozen=True)
class PaddingMask(Carrier):
    """A mask [B, N], true or not zero where there is a token."""

    axes: str = "bn"

    def padding(self, mask: Any) -> Bool[Tensor, "B N"]:
        """The tokens that are none."""
        return mask == 0


@dataclass(frozen=True)
class PositionIds(Carrier):
    """The place [B, N] of every token in the dense sequence, 0, 1, 2, ... when left out."""

    axes: str = "bn"
    implied: ClassVar[bool] = True

    def follow(
        self, table: Any, kept: Int[Tensor, "B K"], dense: Segments, segments: Segments
    ) -> Any:
        kept = kept if table is None else self.gather(table, kept, dense.longest)
        return segments.stream(kept)


@dataclass(frozen=True)
class Rows(Carrier):
    """A table, or a tuple of tables, with one entry [T, ...] a row of a packed stream."""

    axes: str = "n"

    def follow(
        self, table: Any, kept: Int[Tensor, "B K"], dense: Segments, segments: Segments
    ) -> Any:
        rows = rows_of(kept, dense, segments)
        if isinstance(table, tuple):
            return tuple(part.index_select(0, rows.to(part.device)) for part in table)
        return table.index_select(0, rows.to(table.device))


@dataclass(frozen=True)
class CuSeqlens(Carrier):
    """Where the runs of a packed stream end that attend to themselves alone, 0 before the first.

    They are counted anew, of frames and of windows alike, since both are runs of the stream;
    ``longest`` names the argument, if any, that holds the rows of the longest run.
    """

    axes: str = "n"
    longest: str = ""

    def follow(
        self, table: Any, kept: Int[Tensor, "B K"], dense: Segments, segments: Segments
    ) -> Any:
        rows = rows_of(kept, dense, segments).to(table.device)
        ends = torch.searchsorted(rows, table.long())
        return ends.unique_consecutive().to(table.dtype)  # an empty run is none


def rows_of(kept: Int[Tensor, "B K"], dense: Segments, segments: Segments) -> Int[Tensor, " T"]:
    """Where the kept rows of a packed stream stood in it, in order."""
    return segments.stream(kept + dense.starts[:, None].to(kept.device))[0]
