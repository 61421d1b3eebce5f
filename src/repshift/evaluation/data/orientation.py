"""Frames the way up they are shown: a phone stores them as its sensor lies, and how to turn them.

What turns or mirrors them is the display matrix of the file. It maps the column p and the row q of
a stored pixel to the column a p + c q and the row b p + d q where it is shown.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from repshift.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from torch import Tensor


@dataclass(frozen=True)
class Orientation:
    """Rows and columns exchanged, or not; then the order of either reversed, or not."""

    transposed: bool = False
    rows_reversed: bool = False
    columns_reversed: bool = False

    @staticmethod
    def of(frame: Any) -> Orientation:
        """That of a frame of PyAV; ``InputError`` where it is no turn by a right angle."""
        from av.sidedata.sidedata import Type

        data = frame.side_data.get(Type.DISPLAYMATRIX)
        return Orientation() if data is None else Orientation.of_matrix(bytes(data))

    @staticmethod
    def of_matrix(data: bytes) -> Orientation:
        """That of FFmpeg's matrix: nine numbers by rows, of which a, b and c, d count."""
        a, b, _, c, d, *_ = struct.unpack("=9i", data)
        if not any((a, b, c, d)):  # FFmpeg shows such frames as they are
            return Orientation()
        # A camera may write an angle that is a little off; FFmpeg's limit is about one degree.
        straight, crossed = (abs(a), abs(d)), (abs(b), abs(c))
        if 50 * max(crossed) < min(straight):
            return Orientation(False, d < 0, a < 0)
        if 50 * max(straight) < min(crossed):
            return Orientation(True, b < 0, c < 0)
        raise InputError(f"a display matrix of {a}, {b}; {c}, {d}")

    def upright(self, frame: UInt8[Tensor, "H W 3"]) -> UInt8[Tensor, "..."]:
        """The frame as it is shown."""
        frame = frame.transpose(0, 1) if self.transposed else frame
        axes = [
            axis for axis, flip in ((0, self.rows_reversed), (1, self.columns_reversed)) if flip
        ]
        return frame.flip(axes) if axes else frame
