"""A short name for what tensors hold."""

from __future__ import annotations

import ctypes
import hashlib
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
