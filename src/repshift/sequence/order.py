"""An order of tokens that is the same on every device, and in an exported model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from jaxtyping import Int, Shaped
    from torch import Tensor


def descending(values: Shaped[Tensor, "B N"]) -> Int[Tensor, "B N"]:
    """The places of each row's values, the highest first; of equal values the earlier leads."""
    if not torch.compiler.is_exporting():
        return values.argsort(dim=1, descending=True, stable=True)
    # ONNX has no stable sort. Runs of equal values are put in order by a second, plain one.
    ranked, order = values.sort(dim=1, descending=True)
    run = F.pad((ranked[:, 1:] != ranked[:, :-1]).long().cumsum(1), (1, 0))
    count = values.shape[1]
    return (run * count + order).sort(dim=1).values % count
