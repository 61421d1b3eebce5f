"""Multiply-adds of a forward, and the attention kernels it ran."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.attention.varlen  # the counter knows its FLOPs from then on
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

if TYPE_CHECKING:
    from collections.abc import Callable

aten = torch.ops.aten


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _multihead_flops(query: Any, *_: Any, **__: Any) -> int:
    """Self-attention of nn.MultiheadAttention as one operator: four projections, two products."""
    batch, count, width = query
    return 2 * batch * count * width * (4 * width + 2 * count)


_ADDED = {
    aten._native_multi_head_attention: _multihead_flops,
    # torch's counter has no formula for the CPU kernel of fused attention: it counts nothing there.
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    # Costs nothing here; where it runs, an attention map was formed.
    aten._softmax: lambda *_, **__: 0,
}
_KERNELS = {
    aten._native_multi_head_attention: "multi-head",
    aten._scaled_dot_product_flash_attention_for_cpu: "flash",
    aten._scaled_dot_product_flash_attention: "flash",
    aten._scaled_dot_product_efficient_attention: "efficient",
    aten._scaled_dot_product_cudnn_attention: "cudnn",
    aten._softmax: "eager",
}


class _Everywhere(nullcontext):
    """In the place of the counter's module tracker, which fails where a module gets a parameter."""

    parents = frozenset({"Global"})


def count_flops(run: Callable[[], object]) -> tuple[float, str]:
    """Run once; return the multiply-adds, as the papers count FLOPs, and the attention kernels.

    Matrix products, convolutions and attention count; norms and activations do not. Kernels are
    told by what ran: ``flash``, ``efficient``, ``cudnn``, ``multi-head`` (the one operator of
    nn.MultiheadAttention, which forms the map on CPU), or ``eager`` where the map was formed.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_ADDED)
    counter.mod_tracker = cast("Any", _Everywhere())
    with counter, torch.inference_mode():
        run()
    ran = counter.get_flop_counts().get("Global", {})
    kernels = sorted({_KERNELS[op] for op in ran if op in _KERNELS})
    return counter.get_total_flops() / 2, " + ".join(kernels) or "none"
