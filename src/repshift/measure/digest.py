"""A short name for what tensors hold, or for the code of a class."""

from __future__ import annotations

import ctypes
import hashlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor


def digest(tensors: Iterable[Tensor]) -> str:
    """The first 16 digits of the SHA-256 of the tensors' bytes."""
    whole = hashlib.sha256()
    for tensor in tensors:
        data = tensor.detach().cpu().flatten().contiguous().view(torch.uint8)
        # Not by way of NumPy, which PyTorch runs without.
        whole.update((ctypes.c_ubyte * data.numel()).from_address(data.data_ptr()))
    return whole.hexdigest()[:16]


def code_digest(kind: type) -> str:
    """The first 16 digits of the SHA-256 of the file that a class stands in.

    Of the source of the class alone where it stands in no file (a notebook).
    """
    try:
        code = Path(inspect.getfile(kind)).read_bytes()
    except (OSError, TypeError):
        try:
            code = inspect.getsource(kind).encode()
        except (OSError, TypeError):
            code = f"{kind.__module__}.{kind.__qualname__}".encode()
    return hashlib.sha256(code).hexdigest()[:16]
