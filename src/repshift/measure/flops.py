"""Multiply-adds of a forward, and the attention kernels it ran."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

with suppress(ImportError):  # PyTorch 2.10; it defines the operator that is counted below
    import torch.nn.attention.varlen

if TYPE_CHECKING:
    from collections.abc import Callable

aten = torch.ops.aten


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _multihead_flops(query: Any, *_: Any, **__: Any) -> int:
    """Self-attention of nn.MultiheadAttention as one operator: four projections, two products."""
    batch, count, width = query
    return 2 * batch * count * width * (4 * width + 2 * count)


def _layer_flops(tokens: Any, *weights: Any, **_: Any) -> int:
    """nn.TransformerEncoderLayer as one operator: self-attention, and two linear layers."""
    batch, count, width = tokens
    hidden = weights[13][0]
    return _multihead_flops(tokens) + 4 * batch * count * width * hidden


def _varlen_flops(
    query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, *_: Any, **__: Any
) -> int:
    """Attention of images end to end, [T, H, D]: each image's own two products."""
    _, heads, width = query.shape
    key_ends = cu_seq_q if cu_seq_k is None else cu_seq_k
    lengths = zip(cu_seq_q.diff().tolist(), key_ends.diff().tolist(), strict=True)
    pairs = sum(queries * keys for queries, keys in lengths)
    return 2 * heads * pairs * (width + value.shape[-1])


_varlen_flops._get_raw = True  # type: ignore[attr-defined]  # it reads the lengths, not shapes

_ADDED = {
    aten._native_multi_head_attention: _multihead_flops,
    aten._transformer_encoder_layer_fwd: _layer_flops,
    # torch's counter has no formula for the CPU kernel of fused attention: it counts nothing there.
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    # These cost nothing here; where one runs, an attention map was formed.
    aten._softmax: lambda *_, **__: 0,
    aten._safe_softmax: lambda *_, **__: 0,
}
_KERNELS = {
    aten._native_multi_head_attention: "multi-head",
    aten._transformer_encoder_layer_fwd: "multi-head",
    aten._scaled_dot_product_flash_attention_for_cpu: "flash",
    aten._scaled_dot_product_flash_attention: "flash",
    aten._scaled_dot_product_efficient_attention: "efficient",
    aten._scaled_dot_product_cudnn_attention: "cudnn",
    aten._softmax: "eager",
    aten._safe_softmax: "eager",
}
if hasattr(torch.nn.attention, "varlen"):
    # Counted here because the counter of PyTorch 2.11 has no formula for it and counts nothing.
    _ADDED[torch.ops.torch_attn._varlen_attn] = _varlen_flops
    _KERNELS[torch.ops.torch_attn._varlen_attn] = "flash"


class _Everywhere(nullcontext):
    """In the place of the counter's module tracker, which fails where a module gets a parameter."""

    parents = frozenset({"Global"})


def count_flops(run: Callable[[], object]) -> tuple[float, str]:
    """Run once; return the multiply-adds, as the papers count FLOPs, and the attention kernels.

    Matrix products, convolutions and attention count; norms and activations do not. Kernels are
    told by what ran: ``flash``, ``efficient``, ``cudnn``, ``multi-head`` (the one operator of
    nn.MultiheadAttention or nn.TransformerEncoderLayer, which forms the map on CPU), or ``eager``
    where the map was formed. That of sequences of different lengths is told as ``flash``, which it
    is.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_ADDED)
    counter.mod_tracker = cast("Any", _Everywhere())
    with counter, torch.inference_mode():
        run()
    ran = counter.get_flop_counts().get("Global", {})
    kernels = sorted({_KERNELS[op] for op in ran if op in _KERNELS})
    return counter.get_total_flops() / 2, " + ".join(kernels) or "none"
