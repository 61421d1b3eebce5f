"""How sure a difference between two methods is that ran on the same images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Float
    from torch import Tensor

DRAWS = 2000


def paired_interval(
    ours: Float[Tensor, " N"], theirs: Float[Tensor, " N"]
) -> tuple[float, float, float]:
    """The mean of ``ours - theirs`` and its 95 % interval, by the paired bootstrap (seed 0)."""
    difference = (ours - theirs).double().cpu()
    draws = torch.Generator().manual_seed(0)
    places = torch.randint(len(difference), (DRAWS, len(difference)), generator=draws)
    means = difference[places].mean(1).sort().values
    low, high = means[round(0.025 * DRAWS)], means[round(0.975 * DRAWS) - 1]
    return difference.mean().item(), low.item(), high.item()


def apart(difference: Mapping[str, float]) -> str:
    """How far a loss is from that of a smaller input, and how sure that is, for people."""
    loss, low, high = (difference[name] for name in ("loss", "from", "to"))
    if low <= 0 <= high:
        return f"not told apart from it ({loss:+.4f}, 95 %: {low:+.4f} to {high:+.4f})"
    if loss > 0:
        return f"higher by {loss:.4f} (95 %: {low:.4f} to {high:.4f}): take the smaller input"
    return f"lower by {-loss:.4f} (95 %: {-high:.4f} to {-low:.4f})"
