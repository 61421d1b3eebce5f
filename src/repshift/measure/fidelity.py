"""How closely a compressed model agrees with the dense one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


@dataclass(frozen=True)
class Fidelity:
    """``value`` is what ``kind`` names, 1 at best; ``kl`` is in nats, for logits only."""

    kind: str
    value: float
    kl: float | None = None


def logit_fidelity(dense: Float[Tensor, "N K"], compressed: Float[Tensor, "N K"]) -> Fidelity:
    """Share of images with the same top-1 class, and mean KL(dense || compressed).

    Where something is not a number there is no class.
    """
    same = (top_class(dense) == top_class(compressed)).double().mean()
    kl = kl_by_image(dense, compressed).mean()
    return Fidelity("top-1 agreement", same.item(), kl.item())


def feature_fidelity(dense: Float[Tensor, "N C"], compressed: Float[Tensor, "N C"]) -> Fidelity:
    """Mean cosine of the pooled features."""
    return Fidelity("feature cosine", cosine_by_image(dense, compressed).mean().item())


def kl_by_image(
    dense: Float[Tensor, "N K"], compressed: Float[Tensor, "N K"]
) -> Float[Tensor, " N"]:
    """KL(dense || compressed) of the logits of each image, in nats."""
    target, given = dense.double().log_softmax(-1), compressed.double().log_softmax(-1)
    return F.kl_div(given, target, reduction="none", log_target=True).sum(-1)


def cosine_by_image(
    dense: Float[Tensor, "N C"], compressed: Float[Tensor, "N C"]
) -> Float[Tensor, " N"]:
    """The cosine of the pooled features of each image."""
    return F.cosine_similarity(dense.double(), compressed.double(), dim=-1)


def accuracy(logits: Float[Tensor, "N K"], labels: Int[Tensor, " N"]) -> float:
    """Share of images whose top-1 class is the label."""
    return (top_class(logits) == labels).double().mean().item()


def top_class(logits: Float[Tensor, "N K"]) -> Float[Tensor, " N"]:
    """The class of the highest logit; NaN, like no other, where one is NaN."""
    return logits.argmax(-1).double().masked_fill(logits.isnan().any(-1), torch.nan)
