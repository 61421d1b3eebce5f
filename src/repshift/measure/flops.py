"""Multiply-adds of a forward, and the attention kernels it ran."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

with suppress(ImportError):  # PyTorch 2.10; it defines the operator that is counted below
    import torch.nn.attention.varlen

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch._ops import OpOverload

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


class _Counter(TorchDispatchMode):
    """Adds up what operators cost, by the formulas of PyTorch's counter and those above.

    PyTorch's own takes longer than small operators do, and fails where a module gets a parameter.
    """

    def __init__(self) -> None:
        super().__init__()
        self.formulas = FlopCounterMode(display=False, custom_mapping=_ADDED).flop_registry
        self.flops: Counter[Any] = Counter()  # those that ran, some at no cost

    def __torch_dispatch__(
        self, func: Any, types: object, args: Any = (), kwargs: Any = None
    ) -> object:
        kwargs = kwargs or {}
        if _made_of_others(func):
            with self:
                return func.decompose(*args, **kwargs)
        output = func(*args, **kwargs)
        if formula := self.formulas.get(func.overloadpacket):
            self.flops[func.overloadpacket] += formula(*args, **kwargs, out_val=output)
        return output


@cache
def _made_of_others(operator: OpOverload) -> bool:
    return operator.has_kernel_for_dispatch_key(torch.DispatchKey.CompositeImplicitAutograd)


def count_flops(run: Callable[[], object]) -> tuple[float, str]:
    """Run once; return the multiply-adds, as the papers count FLOPs, and the attention kernels.

    Matrix products, convolutions and attention count; norms and activations do not. Kernels are
    told by what ran: ``flash``, ``efficient``, ``cudnn``, ``multi-head`` (the one operator of
    nn.MultiheadAttention or nn.TransformerEncoderLayer, which forms the map on CPU), or ``eager``
    where the map was formed. That of sequences of different lengths is told as ``flash``, which it
    is.
    """
    counter = _Counter()
    with counter, torch.inference_mode():
        run()
    kernels = sorted({_KERNELS[op] for op in counter.flops if op in _KERNELS})
    return counter.flops.total() / 2, " + ".join(kernels) or "none"
