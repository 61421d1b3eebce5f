"""What can be wrong with the step of a reduction of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from repshift.sequence.token_map import Step

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def fault_of(
    step: object, scores: Float[Tensor, "B N"], drop: int, prefix: int, verify: bool
) -> str:
    """What is wrong with a step of N tokens, as the end of a sentence; nothing if nothing is.

    Args:
        step: What the reduction returned.
        scores: What it was given, inf for a token that never leaves.
        drop: How many tokens of each image were to leave.
        prefix: How many tokens stand first and stay there.
        verify: Whether to look at indices and shares, not at shapes alone.
    """
    if not isinstance(step, Step):
        return f"returned a {type(step).__name__}; expected a Step"
    batch, count = scores.shape
    widths = {"kept": count - drop, "dropped": drop, "target": drop}
    if step.share is not None:
        widths["share"] = drop
    for name, width in widths.items():
        shape = getattr(step, name).shape
        if shape != (batch, width):
            return f"returned {name} {list(shape)}; expected [{batch}, {width}] of {count} tokens"
    return _wrong_values(step, scores, prefix) if verify else ""


def _wrong_values(step: Step, scores: Float[Tensor, "B N"], prefix: int) -> str:
    places = torch.arange(scores.shape[1], device=scores.device)
    order = torch.cat((step.kept, step.dropped), dim=1).sort(1).values
    if not torch.equal(order, places.expand_as(order)):
        return "returned kept and dropped that do not hold each token once"
    first = step.kept[:, :prefix]
    if not torch.equal(first, places[:prefix].expand_as(first)):
        return f"did not keep the {prefix} prefix tokens first"
    if scores.gather(1, step.dropped).isposinf().any():
        return "dropped a token whose score is inf, which never leaves"
    if ((step.target < 0) | (step.target >= step.kept.shape[1])).any():
        return (
            "returned a target that is no place in kept, from 0 to "
            f"{step.kept.shape[1] - 1}; a target is a place, not the index of a token"
        )
    if step.share is not None and ((step.share < 0) | (step.share > 1)).any():
        return "returned a share below 0 or above 1"
    return ""
