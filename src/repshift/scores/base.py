"""What a score is and what it may look at."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch.nn import functional as F

from repshift.errors import InputError
from repshift.method import Method

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Bool, Float, Int
    from torch import Tensor

Need = Literal[
    "entry", "middle", "exit", "attention", "keys", "class token", "activation", "mixer", "branch",
    "stage entry", "grid", "cells", "frame before", "text", "last query",
]  # fmt: skip
"""What a score or a reduction can ask of a block.

Most name the field of ``Snapshots`` that is then filled in. Three say what the model must be, so
that others are refused: ``"class token"``, ``"mixer"`` (Mamba blocks) and ``"grid"`` (a ResNet;
``"branch"`` and ``"stage entry"`` say it too).
"""


@dataclass(frozen=True)
class Snapshots:
    """What one block did to its tokens: B images of N tokens and C channels.

    ``block``, ``prefix`` and ``tokens`` are always there; ``protected``, ``padding`` and ``grid``
    where there is something to say; each of the others only where the score's ``required()`` or the
    reduction's ``needs`` names it, and None otherwise. All images have N tokens; where they kept
    different numbers (padded texts, a budget per image), ``padding`` marks the rest.

    In a block of attention and MLP the residual stream is seen three times, ``entry``, ``middle``
    and ``exit``; in a block whose one branch is a mixer (Mamba) there is no ``middle``. Of a ResNet
    the block is the last one of a stage, and the N tokens are the positions of its ``grid``, row by
    row.

    Attributes:
        block: The block's number (of a ResNet the stage's), from 0.
        prefix: The first ``prefix`` tokens (class, distillation, registers) never leave.
        class_token: Whether the model has a class token.
        tokens: The stream from which tokens are about to leave [B, N, C]: the exit, or the middle
            where they leave between attention and MLP.
        entry: The stream before attention [B, N, C]; of a ResNet what the ``branch`` is added to.
        middle: The stream after attention, before the MLP [B, N, C].
        exit: The stream after the MLP [B, N, C]. A score that needs it makes every reduction act
            after the block.
        attention: The attention map [B, H, N, N] of H heads, a row for each query. To ask for it
            turns fused attention off in that block.
        keys: The keys of attention [B, H, N, D]. They cost no map.
        activation: What the last projection of a Mamba mixer reads [B, N, E].
        protected: Tokens [B, N] that never leave and may not take up others (inner and suffix
            tokens), and padding; None if there are none.
        padding: Tokens [B, N] that no query sees; None if there are none.
        branch: What the last block of a ResNet's stage adds to ``entry`` [B, N, C].
        stage_entry: What entered a ResNet's stage, averaged down to ``grid`` [B, N, D].
        grid: Rows and columns of a ResNet's feature map; None of other models.
        keep: Of a prompt, how many tokens of each image will stay [B]; None elsewhere.
        cells: Row and column of each token on the grid of its image [B, N, 2].
        frame_before: The tokens of the same cells a frame earlier [B, N, C].
        text: The embeddings of the prompt of each image [B, M, C], and
        unread: which of them are no text [B, M].
        query: The query of the last token of the prompt, Q heads of it [B, Q, D].
    """

    block: int
    prefix: int
    tokens: Float[Tensor, "B N C"]
    entry: Float[Tensor, "B N C"] | None = None
    middle: Float[Tensor, "B N C"] | None = None
    exit: Float[Tensor, "B N C"] | None = None
    attention: Float[Tensor, "B H N N"] | None = None
    keys: Float[Tensor, "B H N D"] | None = None
    activation: Float[Tensor, "B N E"] | None = None
    protected: Bool[Tensor, "B N"] | None = None
    padding: Bool[Tensor, "B N"] | None = None
    branch: Float[Tensor, "B N C"] | None = None
    stage_entry: Float[Tensor, "B N D"] | None = None
    grid: tuple[int, int] | None = None
    class_token: bool = False
    keep: Int[Tensor, " B"] | None = None
    cells: Int[Tensor, "B N 2"] | None = None
    frame_before: Float[Tensor, "B N C"] | None = None
    text: Float[Tensor, "B M C"] | None = None
    unread: Bool[Tensor, "B M"] | None = None
    query: Float[Tensor, "B Q D"] | None = None

    def by_unit(self, unit: int) -> Snapshots:
        """The mean over each ``unit`` rows that are dropped together; protected if one of them is.

        No attention map: its rows have no mean that were one.
        """

        def mean(rows: Tensor) -> Tensor:
            units = rows.unflatten(1, (-1, unit))
            return units.any(2) if rows.dtype == torch.bool else units.mean(2)

        units = self._by_token(mean)
        if self.padding is None:
            return units
        return replace(units, padding=self.padding.unflatten(1, (-1, unit)).all(2))

    def of_patches(self, rows: Int[Tensor, "B M"]) -> Snapshots:
        """Those at ``rows`` alone, which are all but the prefix, in that order."""

        def take(tokens: Tensor) -> Tensor:
            index = rows.view(*rows.shape, *[1] * (tokens.ndim - 2))
            return tokens.gather(1, index.expand(*rows.shape, *tokens.shape[2:]))

        return replace(self._by_token(take), prefix=0)

    def padded_to(self, count: int) -> Snapshots:
        """A batch of ``count`` rows an image, the further ones padding."""
        more = count - self.tokens.shape[1]
        if more == 0:
            return self

        def pad(rows: Tensor) -> Tensor:
            return F.pad(rows, (0, 0) * (rows.ndim - 2) + (0, more), value=rows.dtype == torch.bool)

        none = torch.zeros(self.tokens.shape[:2], dtype=torch.bool, device=self.tokens.device)
        marked = {
            name: none if (marks := getattr(self, name)) is None else marks
            for name in ("protected", "padding")
        }
        return replace(self, **marked)._by_token(pad)

    def _by_token(self, act: Callable[[Tensor], Tensor]) -> Snapshots:
        """``act`` on everything [B, N, ...]; the keys [B, H, N, D] as [B, N, H, D]."""
        fields = (
            "tokens", "entry", "middle", "exit", "activation", "protected", "padding", "branch",
            "cells", "frame_before",
        )  # fmt: skip
        done = {name: act(rows) for name in fields if (rows := getattr(self, name)) is not None}
        keys = None if self.keys is None else act(self.keys.transpose(1, 2)).transpose(1, 2)
        return replace(self, **done, keys=keys, attention=None)

    def guard(self, scores: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        """The scores, inf for what never leaves and -inf for padding, which leaves first.

        A reduction gets guarded scores; a score need not guard its own.
        """
        scores = F.pad(scores[:, self.prefix :], (self.prefix, 0), value=math.inf)
        if self.protected is not None:
            scores = scores.masked_fill(self.protected, math.inf)
        return scores if self.padding is None else scores.masked_fill(self.padding, -math.inf)

    def check(self, scores: Float[Tensor, "B N"], said: str, where: str = "") -> None:
        """``InputError`` if scores are NaN, or infinite for a token that may leave.

        By inf and -inf a reduction is told what stays and what is padding.
        """
        if scores.sum().isfinite():
            return
        if scores.isnan().any():
            raise InputError(
                f"{said} is NaN{where}, so the activations are; check the input and the weights"
            )
        free = self.guard(torch.zeros_like(scores)).isfinite()
        if (scores.isinf() & free).any():
            raise InputError(
                f"{said} is infinite for a token{where}, and a score must be finite; check the "
                "activations and, of a score of your own, logarithms and quotients: log(x + 1e-6)"
            )


@dataclass(frozen=True)
class Score(Method):
    """Importance of every token of one block: the highest are kept.

    A subclass is a frozen dataclass with a ``name``, its ``needs`` and ``__call__``. With
    ``@register`` labels, plan files and the command line find it::

        @register
        @dataclass(frozen=True)
        class Loudest(Score):
            name: ClassVar[str] = "loudest"
            needs: ClassVar[frozenset[Need]] = frozenset({"exit"})
            power: float = 1.0  # a setting: a label then reads loudest(2.0)

            def __call__(self, snapshot):
                return snapshot.exit.float().abs().amax(-1) ** self.power

    Attributes:
        name: What stands in labels and plan files: letters, digits, ``-`` and ``_``.
        needs: What must be captured of a block, a field of ``Snapshots`` each (see ``Need``). A
            score that reads ``tokens`` alone needs nothing.
    """

    kind: ClassVar[str] = "score"
    needs: ClassVar[frozenset[Need]] = frozenset()

    def required(self) -> frozenset[Need]:
        """What must be captured for this score: ``needs``, unless it depends on the settings."""
        return self.needs

    @property
    def comparable_across_images(self) -> bool:
        """Whether a value means the same in every image, so that images can be compared by it.

        It matters to a ``Level`` alone: what is compared with it is then the score
        itself, and otherwise the share of the image's total score, which takes scores of 0 or more.
        """
        return False

    def __call__(self, snapshot: Snapshots) -> Float[Tensor, "B N"]:
        """Score all tokens of a block.

        Each image is scored by itself, so that what it keeps does not depend on its neighbours in
        the batch. No gradient is taken of the scores.

        Args:
            snapshot: What the block did; what ``required()`` names is there.

        Returns:
            Scores [B, N], float32 at least, higher for what matters more. Prefix tokens, protected
            ones and padding have a score too, which is not used: they get inf (never leaves) and
            -inf (padding, leaves first) before a reduction sees it. Of finite scores any are
            allowed; one that is NaN or infinite is an error that names the block.
        """
        raise NotImplementedError

    def rate(self, snapshot: Snapshots) -> Float[Tensor, "B N"]:
        """The scores, without gradient; ``InputError`` if they are not one number a token."""
        scores, wanted = self(snapshot), snapshot.tokens.shape[:2]
        if not isinstance(scores, torch.Tensor):
            found = type(scores).__name__
        elif scores.shape != wanted or not scores.is_floating_point():
            found = f"{str(scores.dtype).removeprefix('torch.')} {list(scores.shape)}"
        else:
            return scores.detach()
        raise InputError(
            f"the score {self} returned {found}; expected one floating number a token, [B, N] = "
            f"{list(wanted)}, prefix tokens and padding among them"
        )


def mean_over_heads(attention: Float[Tensor, "B H ..."]) -> Float[Tensor, "B ..."]:
    """The mean in float32 at least: in half precision the scores of most tokens would be equal."""
    return attention.mean(1, dtype=torch.promote_types(attention.dtype, torch.float32))
