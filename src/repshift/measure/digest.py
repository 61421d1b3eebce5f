"""A short name for what tensors hold."""

from __future__ import annotations

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
        whole.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().data)
    return whole.hexdigest()[:16]
