"""Intercept attention to record its map or keys, or to weigh its keys by size; thread-local.

Every library calls ``F.scaled_dot_product_attention`` or ``F.multi_head_attention_forward``. These
are intercepted while one block runs, in the calling thread only; no model is changed.
"""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from repshift.errors import InputError
from repshift.runtime.attention_kernels import (
    AttentionCall,
    eager_by_segment,
    proportional,
    varlen_attention,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from jaxtyping import Float
    from torch import Tensor

    from repshift.scores import Need
    from repshift.sequence.segments import Segments

_ATTENTION = (F.scaled_dot_product_attention, F.multi_head_attention_forward)
# The parameters of the second in order: its module passes most of them by position.
_PROJECTING = tuple(inspect.signature(F.multi_head_attention_forward).parameters)


class EagerAttention(TorchFunctionMode):
    """Inside, attention forms its map, as it does without a fused kernel."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return AttentionCall(*args, **kwargs).eager()[0]
        if func is F.multi_head_attention_forward:
            output, weights = func(*args, **{**kwargs, "need_weights": True})
            return output, weights if kwargs.get("need_weights", True) else None
        return func(*args, **kwargs)


class AttentionRecorder(TorchFunctionMode):
    """Records the attention map or the keys of one block, and weighs its keys by ``size``.

    ``map`` [B, H, N, N] is free of the sizes; ``keys`` [B, H, N, D] are those that are compared
    with the ``queries`` [B, H, N, D]. ``calls`` counts the attentions that were intercepted,
    ``causal`` says whether one was. Of packed segments each attends to itself alone, and the sizes
    are packed as the tokens are.
    """

    def __init__(
        self,
        needs: Collection[Need],
        size: Float[Tensor, "B N"] | None,
        segments: Segments,
        local: Any = None,
    ) -> None:
        super().__init__()
        self.local = local
        self.needs = needs
        self.size = size
        self.segments = segments
        self.calls = 0
        self.causal = False
        self.map: Tensor | None = None
        self.keys: Tensor | None = None
        self.queries: Tensor | None = None

    @property
    def complete(self) -> bool:
        """Whether what was intercepted is one attention of all tokens."""
        return self.calls == 1

    def _applies(self) -> bool:
        """Whether its block is the one that runs: not where that calls another forward."""
        return self.local is None or self.local.state.recorder is self

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _ATTENTION or not self._applies():
            return func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            self.calls += 1
            call = AttentionCall(*args, **kwargs)
            self.causal |= call.causal
            return self._attend(call)
        self.calls += 1
        return self._attend_projecting(func, args, kwargs)

    def _attend(self, call: AttentionCall) -> Tensor:
        self._follow(call.key.device)
        segments, packed = self.segments, self.segments.packed
        if "keys" in self.needs:
            self.keys = segments.batch(call.key.transpose(1, 2)).transpose(1, 2)
        if "last query" in self.needs:
            self.queries = call.query
        if "attention" in self.needs:
            eager = eager_by_segment(call, segments, self.size) if packed else call.eager(self.size)
            output, free = eager
            self.map = call.without_blind(free)
            return output
        if packed:
            return varlen_attention(call, segments, self.size)
        return call.fused() if self.size is None else proportional(call, self.size)

    def _attend_projecting(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """nn.MultiheadAttention: projections and attention in one function, tokens [N, B, C]."""
        given = dict(zip(_PROJECTING[: len(args)], args, strict=True)) | kwargs
        key, heads = given["key"], given["num_heads"]
        weight, bias = given["in_proj_weight"], given["in_proj_bias"]
        count, batch, width = key.shape
        self.causal |= bool(given.get("is_causal"))
        self._follow(key.device)
        if self.segments.packed:
            if any(given.get(name) is not None for name in ("bias_k", "bias_v")) or given.get(
                "add_zero_attn"
            ):
                raise InputError(
                    "a level does not go with the keys that nn.MultiheadAttention adds "
                    "(add_bias_kv, add_zero_attn); use shares or counts"
                )
            # This function cannot be told that images lie end to end: its three steps one by one.
            every = F.linear(key[:, 0], weight, bias).view(count, 3, heads, -1).permute(1, 2, 0, 3)
            query, key, value = every[:, None]
            masks = [given.get(name) for name in ("attn_mask", "key_padding_mask")]
            mask = next((mask for mask in masks if mask is not None), None)
            call = AttentionCall(query, key, value, mask, given["training"] * given["dropout_p"])
            output = self._attend(call)[0].transpose(0, 1).flatten(1)
            return F.linear(output, given["out_proj_weight"], given["out_proj_bias"])[:, None], None
        if "keys" in self.needs:
            bias = None if bias is None else bias[width : 2 * width]
            keys = F.linear(key, weight[width : 2 * width], bias)
            self.keys = keys.unflatten(2, (heads, width // heads)).permute(1, 2, 0, 3)
        asked = dict(given)
        if "attention" in self.needs:
            asked |= {"need_weights": True, "average_attn_weights": False}
        if self.size is not None and batch:  # of no image it takes no mask
            # This function takes no further channel. Its padding mask is added to the logits of
            # every key, and has a length for each, not for each pair.
            weights, mask = self.size.log().to(key.dtype), given.get("key_padding_mask")
            if mask is not None and mask.dtype == torch.bool:
                weights = weights.masked_fill(mask, -math.inf)
            elif mask is not None:
                weights = weights + mask
            asked["key_padding_mask"] = weights
        output, attention = func(**asked)
        if "attention" in self.needs:
            self.map = attention
            if self.size is not None:
                free = attention / self.size[:, None, None]
                self.map = free / free.sum(-1, keepdim=True)
        return output, attention if given.get("need_weights", True) else None

    def _follow(self, device: torch.device) -> None:
        """Bring the sizes to the block's device, which may be another than the last block's."""
        if self.size is not None and self.size.device != device:
            self.size = self.size.to(device)
