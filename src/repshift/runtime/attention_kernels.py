"""Attention computed in other ways than by one fused call: by size, by image, with its map."""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from repshift.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float
    from torch import Tensor

    from repshift.sequence.segments import Segments


def proportional(call: AttentionCall, size: Float[Tensor, "B N"]) -> Float[Tensor, "B H Q D"]:
    """Attention with log(size) added to the logits of every key (ToMe, arXiv 2210.09461, eq. 1).

    The fused kernel for CPU takes the bias as a mask, at no cost, unless that of causal attention
    would have to be formed for it. That for CUDA takes none.
    """
    if call.query.is_cuda or (call.causal and call.mask is None):
        return bias_as_channel(call, size)
    return call.fused(bias=size.log().to(call.key.dtype)[:, None, None])


def bias_as_channel(call: AttentionCall, size: Float[Tensor, "B N"]) -> Float[Tensor, "B H Q D"]:
    """The same without a mask."""
    return with_channel(call, size).fused()[..., : call.value.shape[-1]]


def with_channel(call: AttentionCall, size: Float[Tensor, "B N"]) -> AttentionCall:
    """A call in which one more channel adds log(size): 1 in every query, log(size) / scale in keys.

    Zeros fill up to a multiple of eight channels, which the flash kernel for CUDA asks for; values
    are widened too because it asks for one width.
    """
    room = 8 - call.query.shape[-1] % 8
    bias = (size.log() / call.scale).to(call.key.dtype)[:, None, :, None]
    bias = bias.expand(*call.key.shape[:-1], 1)
    query = F.pad(F.pad(call.query, (0, 1), value=1.0), (0, room - 1))
    key = F.pad(torch.cat((call.key, bias), dim=-1), (0, room - 1))
    value = F.pad(call.value, (0, query.shape[-1] - call.value.shape[-1]))
    return AttentionCall(
        query, key, value, call.mask, call.dropout, call.causal, call.scale, call.gqa
    )


def varlen_attention(
    call: AttentionCall, segments: Segments, size: Float[Tensor, "1 T"] | None = None
) -> Float[Tensor, "1 H T D"]:
    """Attention of packed segments, each to itself alone, without a mask or padding."""
    if _one_kernel_takes(call):
        widened = call if size is None else with_channel(call, size)
        return varlen_attention_kernel(widened, segments)[..., : call.value.shape[-1]]
    return varlen_attention_loop(call, segments, size)


def varlen_attention_loop(
    call: AttentionCall, segments: Segments, size: Float[Tensor, "1 T"] | None = None
) -> Float[Tensor, "1 H T D"]:
    """The same segment by segment."""
    outputs = [
        part.fused() if own is None else proportional(part, own)
        for part, own in call.by_segment(segments, size)
    ]
    return torch.cat(outputs, dim=-2)


def eager_by_segment(
    call: AttentionCall, segments: Segments, size: Float[Tensor, "1 T"] | None
) -> tuple[Float[Tensor, "1 H T D"], Float[Tensor, "S H L L"]]:
    """The output, and the attention maps of all segments, 0 where there is padding."""
    outputs, maps = [], []
    for part, own in call.by_segment(segments, size):
        output, free = part.eager(own)
        more = segments.longest - free.shape[-1]
        outputs.append(output)
        maps.append(F.pad(free, (0, more, 0, more)))
    return torch.cat(outputs, dim=-2), torch.cat(maps)


def _one_kernel_takes(call: AttentionCall) -> bool:
    """Whether the kernel for sequences of different lengths computes this attention."""
    query = call.query
    if not query.is_cuda or query.itemsize != 2 or query.ndim != 4 or call.dropout:
        return False
    same = query.shape[-1] == call.key.shape[-1] == call.value.shape[-1]
    capable = torch.cuda.get_device_capability(query.device) >= (8, 0)
    # Before 2.11 it takes no scale.
    return (
        same and query.shape[-1] % 8 == 0 and capable and torch.__version__ >= "2.11"
        and call.mask is None
    )  # fmt: skip


def varlen_attention_kernel(call: AttentionCall, segments: Segments) -> Float[Tensor, "1 H T D"]:
    """The same by the kernel for sequences of different lengths (CUDA, half precision)."""
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = (part[0].transpose(0, 1) for part in (call.query, *call.repeated()))
    ends = segments.cu_seqlens.to(query.device)
    options: dict[str, Any] = {}
    if "num_splits" in inspect.signature(varlen_attn).parameters:  # not in PyTorch 2.11
        options["num_splits"] = 1  # so that an image does not depend on the longest beside it
    output = varlen_attn(
        query,
        key,
        value,
        cu_seq_q=ends,
        cu_seq_k=ends,
        max_q=segments.longest,
        max_k=segments.longest,
        scale=call.scale,
        window_size=(-1, 0) if call.causal else (-1, -1),
        **options,
    )
    assert isinstance(output, torch.Tensor)
    return output.transpose(0, 1)[None]


class AttentionCall:
    """The arguments of ``F.scaled_dot_product_attention``."""

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> None:
        self.query, self.key, self.value = query, key, value
        self.mask, self.dropout, self.causal, self.gqa = attn_mask, dropout_p, is_causal, enable_gqa
        self.scale = query.shape[-1] ** -0.5 if scale is None else scale

    def by_segment(
        self, segments: Segments, size: Float[Tensor, "1 T"] | None
    ) -> Iterator[tuple[AttentionCall, Float[Tensor, "1 N"] | None]]:
        """The call of each packed segment by itself, and the sizes of its keys."""
        if self.mask is not None:
            raise InputError(
                "with a level images lie end to end in one sequence, which an attention mask does "
                "not know; use shares or counts"
            )
        parts = [part.split(segments.counts, dim=-2) for part in (self.query, self.key, self.value)]
        sizes = [None] * segments.count if size is None else size.split(segments.counts, dim=1)
        for query, key, value, own in zip(*parts, sizes, strict=True):
            settings = (None, self.dropout, self.causal, self.scale, self.gqa)
            yield AttentionCall(query, key, value, *settings), own

    def fused(self, bias: Tensor | None = None) -> Tensor:
        """The output of the fused kernel, ``bias`` added to the logits."""
        query, key, value = self.query, self.key, self.value
        mask, causal = self.mask, self.causal
        if bias is not None:
            mask, causal = self._biased(bias), False
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=self.dropout,
            is_causal=causal,
            scale=self.scale,
            enable_gqa=self.gqa,
        )

    def eager(self, size: Float[Tensor, "B N"] | None = None) -> tuple[Tensor, Tensor]:
        """The output, its keys weighed by ``size``, and the map free of it.

        The rows of blind queries are NaN in the map: see ``without_blind``.
        """
        key, value = self.repeated()
        logits = self._biased((self.query * self.scale) @ key.transpose(-2, -1))
        free = applied = logits.softmax(-1)
        if size is not None:
            applied = (logits + size.log().to(logits.dtype)[:, None, None]).softmax(-1)
        return self.without_blind(F.dropout(applied, self.dropout) @ value), free

    def repeated(self) -> tuple[Tensor, Tensor]:
        """Keys and values, those of a group of queries once for each of its heads."""
        if not self.gqa:
            return self.key, self.value
        groups = self.query.shape[-3] // self.key.shape[-3]
        return self.key.repeat_interleave(groups, -3), self.value.repeat_interleave(groups, -3)

    def without_blind(self, rows: Float[Tensor, "B H Q D"]) -> Float[Tensor, "B H Q D"]:
        """``rows``, 0 for a query that sees no key, such as padding far from a window.

        It attends to nothing in the fused kernels; in the eager map it would be NaN and spread.
        """
        if self.mask is None:
            return rows
        closed = ~self.mask if self.mask.dtype == torch.bool else self.mask.isneginf()
        return rows.masked_fill(closed.all(-1, keepdim=True), 0)

    def _biased(self, logits: Tensor) -> Tensor:
        """``logits`` and what the mask adds to them."""
        mask = self.mask
        if self.causal:
            shape = self.query.shape[-2], self.key.shape[-2]
            mask = self.query.new_ones(shape, dtype=torch.bool).tril()
        if mask is None:
            return logits
        if mask.dtype != torch.bool:
            return logits + mask
        # Runtimes of ONNX turn a row without any key to NaN, where the fused kernels give 0.
        exporting = torch.compiler.is_exporting()
        return logits.masked_fill(~mask, torch.finfo(logits.dtype).min if exporting else -math.inf)
