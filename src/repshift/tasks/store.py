"""What a long run has computed so far, on disk: each piece whole, so that a stopped run goes on."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from repshift.files import replacing

T = TypeVar("T")

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor, nn

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
        from safetensors.torch import save_file

        with replacing(self._path(name)) as temporary:
            save_file({key: value.contiguous() for key, value in piece.items()}, temporary)

    def read(self, name: str, keys: Sequence[str] = ()) -> Piece:
        """The whole piece, or those of its tensors alone."""
        from safetensors import safe_open

        with safe_open(self._path(name), "pt") as piece:
            return {key: piece.get_tensor(key) for key in keys or piece.keys()}

    def get(self, name: str, compute: Callable[[], Mapping[str, Tensor]]) -> Piece:
        """The piece of that name, computed and written where it is not there yet."""
        if not self.has(name):
            self.write(name, compute())
        return self.read(name)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def digest(model: nn.Module) -> str:
    """A name for the weights of a model."""
    whole = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        whole.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        whole.update(value.detach().cpu().flatten().view(torch.uint8).numpy())
    return whole.hexdigest()


class Ranks:
    """The processes that ``torchrun`` started, and which of them this is; alone without it."""

    def __init__(self) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        if self.size > 1 and not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")

    def owns(self, number: int) -> bool:
        """Whether piece ``number`` is this process's share."""
        return number % self.size == self.rank

    def first(self, make: Callable[[], T]) -> T:
        """``make`` in the first process before the others, which find what it left on disk."""
        if self.rank == 0:
            made = make()
            self.wait()
            return made
        self.wait()
        return make()

    def wait(self) -> None:
        """Until all have come here; what they wrote is then on disk."""
        if self.size > 1:
            torch.distributed.barrier()
