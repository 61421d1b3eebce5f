"""What one prompt left behind: counts, places and bytes, never features."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from repshift.vision_language.conversation import Conversation
    from repshift.vision_language.decision import Decision
    from repshift.vision_language.layout import Layout


class CacheBytes(NamedTuple):
    """Key-value memory: what the cache takes, and what the dense model's would."""

    kept: int
    dense: int


@dataclass
class Record:
    """One prompt, and the words that were written after it.

    Attributes:
        layout: The visual tokens; None in a prompt without.
        left: By place, which of all visual tokens were left.
        columns: For each row of the output, its place in the dense prompt, -1 where it only fills
            the batch up.
        sizes: From how many tokens each row of the output was merged; None: from one.
        widths: By layer of the cache, bytes of a column.
        held: By layer, how many columns were held after the prompt.
        dense: How many the dense cache would have held.
        written: How many tokens came after it.
        conversation: What its cache holds.
    """

    layout: Layout | None = None
    left: dict[str, Int[Tensor, " T"]] = field(default_factory=dict)
    columns: Int[Tensor, "B K"] | None = None
    sizes: Float[Tensor, "B K"] | None = None
    widths: list[int] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    dense: int = 0
    written: int = 0
    conversation: weakref.ref[Conversation] | None = None

    @classmethod
    def plain(cls) -> Record:
        """Of a prompt without images."""
        return cls()

    @classmethod
    def of(cls, decision: Decision, past: Conversation | None, cache: Any) -> Record:
        """Of a prompt that was read, and what its cache holds of it."""
        visual = decision.visual
        assert visual is not None
        rows = decision.last().rows
        every = torch.arange(decision.tokens, device=decision.device).expand(decision.batch, -1)
        columns = every if decision.kept is None else decision.kept
        columns = columns if rows is None else columns.gather(1, rows)
        closed = decision.last().closed
        columns = columns if closed is None else columns.masked_fill(closed, -1)
        record = cls(visual.layout, dict(decision.left), columns)
        record.sizes = decision.last().size
        record.conversation = None if past is None else weakref.ref(past)
        record.dense = decision.dense + decision.tokens
        for layer in getattr(cache, "layers", ()):
            keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
            if keys is not None and values is not None and keys.ndim == 4 and keys.shape[-2]:
                record.widths.append((keys.nbytes + values.nbytes) // keys.shape[-2])
                record.held.append(keys.shape[-2])
        return record

    def grow(self, decision: Decision) -> None:
        """More tokens behind the prompt, if they are behind this one."""
        if self.conversation is not None and self.conversation() is decision.past:
            self.written = decision.dense + decision.tokens - self.dense

    def follow(self, held: int, count: int) -> None:
        """``count`` tokens behind a dense cache that holds ``held``, if that is this prompt's."""
        if self.conversation is None and self.dense + self.written == held:
            self.written += count

    @property
    def counts(self) -> list[dict[str, int]]:
        """By image and place, how many tokens were left."""
        if self.layout is None:
            return []
        owners = torch.tensor([segment.image for segment in self.layout.segments])
        owners = owners.repeat_interleave(torch.tensor(self.layout.lengths))
        images = 1 + int(owners.max())
        by_place = [
            owners[left.cpu()].bincount(minlength=images).tolist() for left in self.left.values()
        ]
        return [dict(zip(self.left, row, strict=True)) for row in zip(*by_place, strict=True)]

    @property
    def bytes(self) -> CacheBytes:
        """Key-value memory, beside that of the dense model."""
        pairs = zip(self.widths, self.held, strict=True)
        kept = sum(width * (held + self.written) for width, held in pairs)
        return CacheBytes(kept, sum(self.widths) * (self.dense + self.written))


class Kept:
    """By image, the cells of its grid that are left; counted over its frames or parts."""

    def __init__(self, layout: Layout | None, left: Int[Tensor, " T"] | None) -> None:
        self._masks: list[list[Bool[Tensor, "h w"]]] = []
        if layout is None or left is None:
            return
        marks = torch.zeros(sum(layout.lengths), dtype=torch.bool)
        marks[left.cpu()] = True
        for segment, part in zip(layout.segments, marks.split(layout.lengths), strict=True):
            if segment.image == len(self._masks):
                self._masks.append([])
            self._masks[segment.image].append(part.view(segment.rows, segment.columns))

    def __len__(self) -> int:
        return len(self._masks)

    def __getitem__(self, image: int) -> Int[Tensor, " K"]:
        """The cells of an image, row by row, frame by frame."""
        marks = torch.cat([mask.flatten() for mask in self._masks[image]])
        return marks.nonzero().flatten()

    def mask(self, image: int) -> Bool[Tensor, "..."]:
        """The grid of an image, true where a token is kept; of a video [frames, rows, columns].

        Of an image that is read in parts (a small copy, then the large grid) the grid of the last.
        """
        masks = self._masks[image]
        same = len({mask.shape for mask in masks}) == 1
        return torch.stack(masks) if same and len(masks) > 1 else masks[-1]
