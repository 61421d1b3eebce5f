"""One block at work: what was captured of it, and which tokens are dropped."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch

from repshift.errors import InputError
from repshift.scores import Snapshots
from repshift.sequence.amounts import Level
from repshift.sequence.levels import levels
from repshift.sequence.quota import Quota
from repshift.sequence.segments import Segments

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor, nn

    from repshift.adapters.spec import EncoderSpec
    from repshift.plan import Plan
    from repshift.runtime.attention import AttentionRecorder
    from repshift.scores import Need, Score
    from repshift.sequence.token_map import Step


@dataclass
class BlockState:
    """One block in one forward.

    ``segments`` says how the rows of its stream belong to images, before and, once decided,
    ``after`` it; ``acts`` whether tokens are dropped; ``size`` from how many tokens each was merged
    (None: one); ``inner`` marks those behind the prefix that are never dropped (None: none);
    ``cells`` has the patches cell by cell where units are cells; ``watched`` is a score that is to
    be told, whatever is dropped; ``normed`` is the norm that ran last, with what it made.
    """

    block: int
    plan: Plan
    spec: EncoderSpec
    segments: Segments
    entry: Float[Tensor, "B N C"]
    size: Float[Tensor, "S L"] | None = None
    acts: bool = False
    recorder: AttentionRecorder | None = None
    inner: Bool[Tensor, "S L"] | None = None
    cells: Int[Tensor, "S M"] | None = None
    middle: Float[Tensor, "B N C"] | None = None
    activation: Float[Tensor, "B N E"] | None = None
    normed: tuple[nn.Module, Any] | None = None
    scores: Float[Tensor, "S L"] | None = None
    step: Step | None = None
    after: Segments | None = None
    watched: Score | None = None
    _batch: tuple[Tensor, Tensor] | None = None

    @property
    def needs(self) -> frozenset[Need]:
        """What must be captured of the block."""
        needs: frozenset[Need] = self.plan.required() if self.acts else frozenset()
        return needs | self.watched.required() if self.watched else needs

    def watch(self, stream: Float[Tensor, "B N C"]) -> Float[Tensor, "S L"]:
        """The scores that are to be told, of all tokens that entered."""
        assert self.watched is not None
        self._follow(stream.device)
        snapshot = self._snapshots(stream)
        return snapshot.guard(self.watched.rate(snapshot))

    def decide(self, stream: Float[Tensor, "B N C"], verify: bool, first: bool) -> None:
        """Find the ``step`` that drops tokens from the stream, the middle or the exit.

        ``verify`` costs a synchronisation on a GPU; in the ``first`` forward it looks through what
        the reduction returns, too.
        """
        self._follow(stream.device)
        snapshot, unit = self._snapshots(stream), self.spec.unit
        self.scores = scores = self._scored(snapshot, verify)
        if self.cells is not None:
            snapshot, scores = snapshot.of_patches(self.cells), scores.gather(1, self.cells)
        if scores.shape[1] % unit:
            raise InputError(
                f"block {self.block} has {scores.shape[1]} tokens, no whole number of units of "
                f"{unit}"
            )
        if unit > 1:
            snapshot, scores = snapshot.by_unit(unit), self._by_unit(scores)
        quota = self._quota(scores)
        if self._ragged:
            snapshot = snapshot.padded_to(quota.rows)
        step = self.plan.reduction.decide(snapshot, quota.even(scores), quota.drop, first)
        step = step.by_row(unit)
        if self.cells is not None:
            step = step.of_patches(self.cells, self.spec.prefix_tokens)
        read = bool(self.spec.mixers) or (self.recorder is not None and self.recorder.causal)
        if self.cells is not None or self.spec.packing or read:
            # Rows of a grid, windows, which are runs of a stream, and what is read left to right.
            step = step.in_order()
        self.step, longest = step, self.segments.longest
        if self._ragged:
            assert quota.each is not None
            self.step = replace(step, rows=longest)
            lengths = self.segments.lengths.to(quota.each.device)
            self.after = Segments.pack(lengths - quota.each * unit)
        else:
            self.after = Segments(self.segments.count, longest - quota.drop * unit)

    def reduce(self, stream: Float[Tensor, "B N C"]) -> Float[Tensor, "P K C"]:
        """The stream without the dropped tokens."""
        assert self.step is not None
        assert self.after is not None
        return self.after.stream(self.step.apply(self._as_batch(stream), self.size))

    def expand(self, branch: Float[Tensor, "P K C"]) -> Float[Tensor, "B N C"]:
        """What was computed for the kept tokens, for all: a dropped one gets its target's."""
        assert self.step is not None
        assert self.after is not None
        return self.segments.stream(self.step.map.restore(self.after.batch(branch)))

    def _as_batch(self, stream: Float[Tensor, "B N C"]) -> Float[Tensor, "S L C"]:
        """The stream as a batch; of a packed one it is made once, to decide on and to reduce."""
        if not self.segments.packed:
            return stream
        if self._batch is None or self._batch[0] is not stream:
            self._batch = (stream, self.segments.batch(stream))
        return self._batch[1]

    @property
    def _ragged(self) -> bool:
        """Whether what is left lies end to end, since how much that is depends on the images."""
        by_level = self.plan.amount(self.block).by_level
        return bool(self.spec.packing) or self.segments.packed or by_level

    def _by_unit(self, scores: Float[Tensor, "S L"]) -> Float[Tensor, "S U"]:
        """The mean of every unit's tokens; where a mask closes some, of those that are left."""
        units = scores.unflatten(1, (-1, self.spec.unit))
        if self.segments.padding is None or self.segments.packed:
            return units.mean(2)
        closed = units.isneginf()
        mean = units.masked_fill(closed, 0).sum(2) / (~closed).sum(2)
        return mean.masked_fill(closed.all(2), -math.inf)

    def _quota(self, scores: Float[Tensor, "S L"]) -> Quota:
        """How many rows, or units of rows, every segment drops."""
        plan, segments, unit = self.plan, self.segments, self.spec.unit
        amount = plan.amount(self.block)
        if segments.padding is None and not self._ragged:
            return Quota(scores.shape[1], self._leaving() // unit)
        lengths = self._lengths(scores)
        if isinstance(amount, Level):
            lengths = lengths.to(scores.device)
            each = amount.reached(levels(scores, plan.score))
        else:
            each = amount.of_each(lengths) // unit
        each = each.minimum(plan.reduction.most(lengths // unit, self.spec.protected_tokens))
        if self._ragged:
            return Quota.ragged(segments.lengths.to(each.device) // unit, each)
        # As many rows as a text without padding would drop, so that the shape of the output does
        # not depend on the values of the mask.
        return Quota(scores.shape[1], self._leaving() // unit, each)

    def _lengths(self, scores: Float[Tensor, "S U"]) -> Int[Tensor, " S"]:
        """How many patches each segment has; a unit of which a mask closes some counts whole."""
        segments, unit = self.segments, self.spec.unit
        if unit > 1 and segments.padding is not None and not segments.packed:
            return (~scores.isneginf()).sum(1) * unit
        return segments.lengths - self.spec.staying

    def _leaving(self) -> int:
        """How many tokens a segment of the greatest length drops."""
        spec, patches = self.spec, self.segments.longest - self.spec.staying
        return self.plan.leaving(self.block, patches, protected=spec.protected_tokens)

    def _scored(self, snapshot: Snapshots, verify: bool) -> Float[Tensor, "S L"]:
        """The scores, inf for what is never dropped and -inf for padding."""
        plan, tokens = self.plan, snapshot.tokens
        if plan.reduction.scored:
            scores = plan.score.rate(snapshot)
            if verify:
                snapshot.check(scores, f"block {self.block}: the score {plan.score}")
            shared = plan.adaptive and not plan.score.comparable_across_images
            if verify and shared and (scores < 0).any():
                raise InputError(
                    "a level counts scores as shares of their sum, but "
                    f"{plan.score} gives negative ones; use another score"
                )
        else:
            dtype = torch.promote_types(tokens.dtype, torch.float32)
            scores = torch.zeros(tokens.shape[:2], dtype=dtype, device=tokens.device)
        padding = snapshot.padding
        if padding is not None and verify and padding[:, : snapshot.prefix].any():
            raise InputError(
                "a text begins with padding, so its first token is not where it must stay; pad on "
                'the right (tokenizer.padding_side = "right")'
            )
        return snapshot.guard(scores)

    def _follow(self, device: torch.device) -> None:
        """Bring what was captured to the block's device, to which it may have moved its tokens."""
        for name in ("entry", "middle", "activation", "size", "inner", "cells"):
            captured = getattr(self, name)
            if captured is not None and captured.device != device:
                setattr(self, name, captured.to(device))

    def _snapshots(self, stream: Float[Tensor, "B N C"]) -> Snapshots:
        needs, recorder = self.needs, self.recorder
        if needs & {"attention", "keys"} and (recorder is None or not recorder.complete):
            calls = recorder.calls if recorder else 0
            reads = self.watched or self.plan.method
            raise InputError(
                f"{reads} reads the attention of block {self.block}, which called "
                f"scaled_dot_product_attention {calls} times instead of once; load a Hugging Face "
                'model with attn_implementation="sdpa", or use a score that reads none, such as '
                "shift"
            )
        if "middle" in needs and self.middle is None:
            raise InputError(
                f"{self.plan.score} did not see the middle of block {self.block}: its norm2 did "
                "not run inside the block"
            )
        if "activation" in needs and self.activation is None:
            raise InputError(
                f"{self.plan.score} did not see the activations of block {self.block}: a fused "
                "kernel took the place of its last projection; call model.eval() first"
            )
        batch, padding = self.segments.batch, self.segments.padding
        padding = None if padding is None else padding.to(stream.device)
        tokens = self._as_batch(stream)
        inner = self.inner
        return Snapshots(
            self.block,
            self.spec.prefix_tokens,
            tokens,
            entry=batch(self.entry) if "entry" in needs else None,
            middle=batch(cast("Tensor", self.middle)) if "middle" in needs else None,
            exit=tokens if "exit" in needs else None,
            attention=recorder.map if recorder and "attention" in needs else None,
            keys=recorder.keys if recorder and "keys" in needs else None,
            activation=self.activation if "activation" in needs else None,
            protected=inner if padding is None else padding if inner is None else inner | padding,
            padding=padding,
            class_token=self.spec.class_token,
        )
