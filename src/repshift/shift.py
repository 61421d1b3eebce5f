"""Representation Shift: how far a layer moves a token (ICCV 2025, arXiv 2508.00367, eq. 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch.nn import functional as F

from repshift.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

Metric = Literal["l2", "l1", "cosine"]


def representation_shift(
    before: Float[Tensor, "*batch N C"],
    after: Float[Tensor, "*batch N C"],
    metric: Metric = "l2",
) -> Float[Tensor, "*batch N"]:
    """Distance D(after, before) of every token over its channels; larger means more important.

    ``l2`` is the Euclidean norm of the difference (the paper's choice), ``l1`` the sum of its
    absolute values, ``cosine`` one minus the cosine of the two vectors. Sums run in float32 at
    least, whatever the input, and so is the result.
    """
    dtype = torch.promote_types(before.dtype, torch.float32)
    match metric:
        case "l2":
            return torch.linalg.vector_norm(after - before, dim=-1, dtype=dtype)
        case "l1":
            return (after - before).abs().sum(-1, dtype=dtype)
        case "cosine":
            # Rounding takes the cosine of equal vectors a little above 1.
            cosine = F.cosine_similarity(after.to(dtype), before.to(dtype), dim=-1)
            return (1 - cosine).clamp_min(0)
    raise InputError(f"metric {metric!r} is not one of l2, l1, cosine")
