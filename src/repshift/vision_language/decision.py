"""One forward of the language model: what is dropped where, from the prompt to the last layer."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from repshift.vision_language.columns import columns_of
from repshift.vision_language.conversation import Conversation, Held

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from repshift.runtime.attachment import Attachment
    from repshift.vision_language.layout import Layout
    from repshift.vision_language.select import Choice


@dataclass(frozen=True)
class Stage:
    """Which of the rows that enter the first layer some layers work on.

    Attributes:
        rows: Their places among those; None: all.
        closed: Those that only fill the batch up.
        size: From how many tokens each was merged; None: one.
    """

    rows: Int[Tensor, "B Q"] | None = None
    closed: Bool[Tensor, "B Q"] | None = None
    size: Float[Tensor, "B Q"] | None = None


@dataclass
class Visual:
    """The visual tokens that are left, packed segment by segment."""

    layout: Layout
    places: Int[Tensor, " T"]
    """Where they stand in the flattened stream [B * Q]."""
    packed: Int[Tensor, " T"]
    """Which of all visual tokens of the prompt they are."""
    lengths: list[int]
    size: Float[Tensor, " T"] | None = None

    @classmethod
    def first(cls, layout: Layout, device: torch.device) -> Visual:
        """All those that a tower left."""
        places, packed, lengths = layout.places, torch.arange(sum(layout.lengths)), layout.lengths
        if layout.alive is not None:
            packed = layout.alive.nonzero().flatten()
            lengths = [int(part.sum()) for part in layout.alive.split(lengths)]
        return cls(layout, places[packed].to(device), packed.to(device), lengths)

    def after(self, choice: Choice, index: Int[Tensor, "B K"], count: int) -> Visual:
        """Those that a choice keeps, in the stream of the columns ``index`` of ``count``."""
        kept = choice.kept
        places = self.places[kept]
        batch, longest = index.shape
        flat = index + count * torch.arange(batch, device=index.device)[:, None]
        stands = torch.zeros(batch * count, dtype=torch.long, device=index.device)
        order = torch.arange(batch * longest, device=index.device)
        stands[flat.flatten()] = order
        # Of tokens that left and fill a row up none is looked up.
        return Visual(
            self.layout, stands[places], self.packed[kept], choice.lengths, choice.resize()
        )

    def spread(self, like: Tensor) -> Float[Tensor, "B Q"] | None:
        """The sizes of all rows of the stream, one for all but merged visual tokens."""
        if self.size is None:
            return None
        sizes = torch.ones(like.shape[:2], dtype=self.size.dtype, device=self.size.device)
        sizes.view(-1)[self.places] = self.size
        return sizes


@dataclass
class Decision:
    """What one forward drops, layer by layer, behind what the cache held before.

    Attributes:
        past: What the cache holds of the conversation so far.
        tail: How many columns the first layer holds behind it.
        dense: How many tokens were read before this forward.
        count: How many rows enter the first layer.
        stages: By the first layer that works on it, what was decided.
        visual: The visual tokens that are left; None where no image is read.
        left: By place, which of all visual tokens of the prompt were left.
    """

    past: Conversation | None
    tail: int
    dense: int
    batch: int
    count: int
    device: torch.device
    stages: dict[int, Stage] = field(default_factory=lambda: {0: Stage()})
    real: Bool[Tensor, "B Q"] | None = None
    kept: Int[Tensor, "B Q"] | None = None
    dropping: bool = False
    tokens: int = 0
    ahead: Int[Tensor, " B"] | None = None
    visual: Visual | None = None
    pending: tuple[int, Choice] | None = None
    left: dict[str, Int[Tensor, " T"]] = field(default_factory=dict)
    _views: dict[tuple[int, int], Held] = field(default_factory=dict)

    def stage(self, layer: int) -> Stage:
        """What a layer works on."""
        return self.stages[max(first for first in self.stages if first <= layer)]

    def last(self) -> Stage:
        """What was decided last."""
        return self.stages[max(self.stages)]

    @property
    def before(self) -> int:
        """How many columns the first layer held before this forward."""
        return self.tail + (self.past.kept.shape[1] if self.past else 0)

    def sees(self, layer: int) -> Held:
        """The keys that a layer has in this forward, of those that the first layer has."""
        own = max(first for first in self.stages if first <= layer)
        held = max(first for first in self.past.held if first <= layer) if self.past else 0
        if (own, held) not in self._views:
            past = self.past.held[held] if self.past else Held()
            self._views[own, held] = self._joined(past, self.stages[own])
        return self._views[own, held]

    def _joined(self, past: Held, new: Stage) -> Held:
        """What was held, what came behind it, and the rows of this forward."""
        before, batch = self.before, self.batch
        known = self.past.kept.shape[1] if self.past else 0
        at = closed = size = None

        def every(start: int, stop: int) -> Tensor:
            return torch.arange(start, stop, device=self.device).expand(batch, -1)

        if past.at is not None or new.rows is not None:
            old = every(0, known) if past.at is None else past.at
            fresh = every(0, self.count) if new.rows is None else new.rows
            at = torch.cat((old, every(known, before), fresh + before), dim=1)
        held = (known if past.at is None else past.at.shape[1], self.tail)
        fresh_count = self.count if new.rows is None else new.rows.shape[1]

        def joined(old: Tensor | None, own: Tensor | None, value: Any, dtype: Any) -> Tensor | None:
            if old is None and own is None:
                return None

            def plain(width: int) -> Tensor:
                return torch.full((batch, width), value, dtype=dtype, device=self.device)

            old = plain(held[0]) if old is None else old
            own = plain(fresh_count) if own is None else own
            return torch.cat((old, plain(held[1]), own), dim=1)

        closed = joined(past.closed, new.closed, False, torch.bool)
        size = joined(past.size, new.size, 1.0, torch.float32)
        return Held(at, closed, size)

    def remembered(self, owner: Attachment) -> Conversation:
        """What the cache holds after this forward."""
        firsts = {*self.stages, *(self.past.held if self.past else ())}
        held = {first: self.sees(first) for first in sorted(firsts)}
        old = self.past.kept if self.past else self._every(0, 0)
        start = self.past.seen if self.past else 0
        kept = self._every(0, self.tokens) if self.kept is None else self.kept
        kept = torch.cat((old, self._every(start, self.dense), kept + self.dense), dim=1)
        assert self.ahead is not None
        assert self.visual is not None
        layout = self.visual.layout
        text = layout.width - 1 - int((layout.places % layout.width).max())
        seen = self.dense + self.tokens
        return Conversation(weakref.ref(owner), kept, seen, self.ahead, text, held)

    def _every(self, start: int, stop: int) -> Int[Tensor, "B K"]:
        return torch.arange(start, stop, device=self.device).expand(self.batch, -1)

    def drop(self, layer: int, choice: Choice, stays: Tensor) -> Int[Tensor, "B K"]:
        """Drop all rows but those that ``stay`` before ``layer``; gives their places."""
        assert self.visual is not None
        columns = columns_of(stays, self.real)
        before = self.last()
        self.visual = self.visual.after(choice, columns.index, stays.shape[1])
        index = columns.index
        rows = index if before.rows is None else before.rows.gather(1, index)
        size = self.visual.spread(index)
        if layer == 0:
            self.kept, self.count, rows = index, index.shape[1], None
        self.stages[layer] = Stage(rows, columns.closed, size)
        if columns.closed is not None:
            self.real = ~columns.closed
        elif self.real is not None:
            self.real = None
        self.dropping = True
        self.left["prompt" if layer == 0 else f"layer {layer - 1}"] = self.visual.packed
        return index
