"""What a long run has computed so far, on disk: each piece whole, so that a stopped run goes on."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch

from repshift.files import replacing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    Piece = dict[str, Tensor]


class Store:
    """Pieces (tensors by name) in a folder of their own for each set of ``settings``.

    Everything a piece depends on belongs into the settings: another checkpoint, plan, precision or
    version of PyTorch then computes anew instead of going on with what is not its own.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        text = json.dumps({**settings, "torch": str(torch.__version__)}, sort_keys=True)
        self.folder = folder / hashlib.sha256(text.encode()).hexdigest()[:16]

    def has(self, name: str) -> bool:
        return self._path(name).exists()

    def write(self, name: str, piece: Mapping[str, Tensor]) -> None:
        from safetensors.torch import save

        # Written by Python, whose error says when the disk is full.
        content = save({key: value.contiguous() for key, value in piece.items()})
        with replacing(self._path(name)) as temporary:
            temporary.write_bytes(content)

    def read(self, name: str, keys: Sequence[str] = ()) -> Piece:
        """The whole piece, or those of its tensors alone."""
        from safetensors import safe_open

        with safe_open(self._path(name), "pt") as piece:
            return {key: piece.get_tensor(key) for key in keys or piece.keys()}

    def row(self, name: str, key: str, row: int) -> Tensor:
        """One row of one tensor, with its axis; nothing else is read."""
        from safetensors import safe_open

        with safe_open(self._path(name), "pt") as piece:
            return piece.get_slice(key)[row : row + 1]

    def get(self, name: str, compute: Callable[[], Mapping[str, Tensor]]) -> Piece:
        """The piece of that name, computed and written where it is not there yet."""
        if not self.has(name):
            self.write(name, compute())
        return self.read(name)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"
