"""Intercept attention that the model itself computes run by run of a packed stream."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any

import torch

from repshift.runtime.attention import AttentionRecorder
from repshift.runtime.attention_kernels import proportional

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from repshift.runtime.attention_kernels import AttentionCall


class RunRecorder(AttentionRecorder):
    """The same where every call is of one run, a frame or a window of it, in the stream's order.

    A map is that of a whole frame, 0 from window to window.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._ends = [0]
        self._keys: list[Tensor] = []
        self._maps: list[Tensor] = []

    @property
    def complete(self) -> bool:
        return self._ends[-1] == sum(self.segments.counts)

    def _attend(self, call: AttentionCall) -> Tensor:
        self._follow(call.key.device)
        start, end = self._ends[-1], self._ends[-1] + call.key.shape[-2]
        self._ends.append(end)
        own = None if self.size is None else self.size[:, start:end]
        if "keys" in self.needs:
            self._keys.append(call.key)
        if "attention" in self.needs:
            output, free = call.eager(own)
            self._maps.append(call.without_blind(free))
        elif own is not None:
            output = proportional(call, own)
        else:
            output = call.fused()
        if self.complete:
            self._gather()
        return output

    def _gather(self) -> None:
        segments = self.segments
        if self._keys:
            keys = torch.cat(self._keys, dim=-2).transpose(1, 2)
            self.keys = segments.batch(keys).transpose(1, 2)
        if self._maps:
            self.map = self._whole_maps(segments.starts.tolist())

    def _whole_maps(self, starts: list[int]) -> Float[Tensor, "S H L L"]:
        segments, heads = self.segments, self._maps[0].shape[1]
        shape = (segments.count, heads, segments.longest, segments.longest)
        whole = self._maps[0].new_zeros(shape)
        for start, run in zip(self._ends, self._maps, strict=False):
            frame = bisect_right(starts, start) - 1
            first = start - starts[frame]
            last = first + run.shape[-1]
            whole[frame, :, first:last, first:last] = run[0]
        return whole
