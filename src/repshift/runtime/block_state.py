"""One block at work: what was captured of it, and which tokens are dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch

from repshift.errors import InputError
from repshift.scores import Snapshots
from repshift.sequence.levels import leave_by_level, levels

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from repshift.adapters.spec import EncoderSpec
    from repshift.plan import Plan
    from repshift.runtime.attention import AttentionRecorder
    from repshift.sequence.levels import PackedStep
    from repshift.sequence.segments import Packing
    from repshift.sequence.token_map import Step


@dataclass
class BlockState:
    """One block in one forward, and ``drop``, the number of tokens to drop, or up to which level.

    ``size`` is how many tokens each one that entered was merged from (None: one); ``packing`` tells
    how images of different lengths lie in the stream (None: all are of one length); ``padding``
    marks those that no query sees and ``inner`` those between the patches that are never dropped
    (None: there are none).
    """

    block: int
    plan: Plan
    spec: EncoderSpec
    drop: float | int
    entry: Float[Tensor, "B N C"]
    size: Float[Tensor, "B N"] | None = None
    packing: Packing | None = None
    padding: Bool[Tensor, "B N"] | None = None
    recorder: AttentionRecorder | None = None
    inner: Bool[Tensor, "B N"] | None = None
    middle: Float[Tensor, "B N C"] | None = None
    activation: Float[Tensor, "B N E"] | None = None
    step: Step | PackedStep | None = None
    scores: Float[Tensor, "B N"] | None = None

    def decide(self, tokens: Float[Tensor, "B N C"], verify: bool) -> None:
        """Find the ``step`` that drops tokens from the stream ``tokens``, the middle or the exit.

        ``verify`` costs a synchronisation on a GPU.
        """
        self._follow(tokens.device)
        snapshot = self._snapshots(tokens)
        tokens = snapshot.tokens
        if self.plan.reduction.scored:
            scores = self.plan.score(snapshot).detach()
            if verify and scores.sum().isnan():
                raise InputError(
                    f"block {self.block}: the score {self.plan.score} is NaN, so the activations "
                    "are; check the input and the weights"
                )
            shared = self.plan.adaptive and not self.plan.score.comparable_across_images
            if verify and shared and (scores < 0).any():
                raise InputError(
                    "an adaptive budget counts scores as shares of their sum, but "
                    f"{self.plan.score} gives negative ones; use another score"
                )
        else:
            dtype = torch.promote_types(tokens.dtype, torch.float32)
            scores = torch.zeros(tokens.shape[:2], dtype=dtype, device=tokens.device)
        if self.padding is not None and verify and self.padding[:, : snapshot.prefix].any():
            raise InputError(
                "a text begins with padding, so its first token is not where it must stay; pad on "
                'the right (tokenizer.padding_side = "right")'
            )
        self.scores = scores = snapshot.guard(scores)
        if self.plan.adaptive:
            level = levels(scores, self.plan.score)
            self.step = leave_by_level(snapshot, level, self.drop, self.packing)
        else:
            # Not int(): in an exported graph it is a symbol.
            self.step = self.plan.reduction(snapshot, scores, cast("int", self.drop))

    def _follow(self, device: torch.device) -> None:
        """Bring what was captured to the block's device, to which it may have moved its tokens."""
        for name in ("entry", "middle", "activation", "size", "padding", "inner"):
            captured = getattr(self, name)
            if captured is not None and captured.device != device:
                setattr(self, name, captured.to(device))

    def _snapshots(self, tokens: Float[Tensor, "B N C"]) -> Snapshots:
        needs, recorder = self.plan.required(), self.recorder
        if needs & {"attention", "keys"} and (recorder is None or recorder.calls != 1):
            calls = recorder.calls if recorder else 0
            raise InputError(
                f"{self.plan.method} reads the attention of block {self.block}, which called "
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
        batch = self.packing.unpack if self.packing else lambda stream: stream
        tokens, entry = batch(tokens), batch(self.entry)
        middle = None if self.middle is None else batch(self.middle)
        return Snapshots(
            self.block,
            self.spec.prefix_tokens,
            tokens,
            entry=entry if "entry" in needs else None,
            middle=middle if "middle" in needs else None,
            exit=tokens if "exit" in needs else None,
            attention=recorder.map if recorder and "attention" in needs else None,
            keys=recorder.keys if recorder and "keys" in needs else None,
            activation=self.activation if "activation" in needs else None,
            protected=self._closed(),
            padding=self.padding,
            class_token=self.spec.class_token,
        )

    def _closed(self) -> Bool[Tensor, "B N"] | None:
        """Inner tokens, suffix tokens (the last that are no padding), and the padding itself."""
        suffix, padding, inner = self.spec.suffix_tokens, self.padding, self.inner
        if suffix == 0:
            return padding if inner is None else inner if padding is None else padding | inner
        if padding is None:
            padding = torch.zeros(self.entry.shape[:2], dtype=torch.bool, device=self.entry.device)
        # Counted from the end, the padding not.
        from_end = (~padding).flip(1).cumsum(1).flip(1)
        protected = padding | (from_end <= suffix)
        return protected if inner is None else protected | inner
