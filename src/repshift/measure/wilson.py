"""How sure a share of right answers is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

Z = 1.959964  # of the normal distribution, 95 % lie within


def wilson_interval(right: Float[Tensor, " N"]) -> tuple[float, float, float]:
    """The mean of N answers between 0 (wrong) and 1 (right), and its 95 % interval.

    Two right answers of two do not prove a model that is always right: unlike a bootstrap, the
    interval is wide where the answers are few and all alike.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference" (1927).
    """
    count, mean = len(right), right.double().mean().item()
    weight = Z**2 / count
    middle = (mean + weight / 2) / (1 + weight)
    half = Z * math.sqrt(mean * (1 - mean) / count + weight / (4 * count)) / (1 + weight)
    return mean, max(0.0, middle - half), min(1.0, middle + half)
