"""Where the visual tokens of a prompt stand, and how those of one image lie on its grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from repshift.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from repshift.vision_language.families import Family


@dataclass(frozen=True)
class Features:
    """What a tower gave for one call: ``lengths`` rows an entry, in the order of the prompt.

    ``alive`` marks the rows that a tower kept (None: all); the others must not reach the language
    model. ``scores`` are those that were recorded in the tower (None: none).
    """

    lengths: list[int]
    alive: Bool[Tensor, " T"] | None = None
    scores: Float[Tensor, " T"] | None = None


@dataclass(frozen=True)
class Segment:
    """A rectangle of tokens that is decided by itself: an image, a frame, or a part of either.

    Attributes:
        image: The number of its image in the prompt's order, all rows of the batch together.
        places: Where its tokens stand in the flattened prompt [B * N].
        rows: Rows of its grid.
        columns: Columns of its grid; rows times columns are its tokens.
        follows: Whether it is a later frame of a video, so that the segment before it shows the
            same cells a frame earlier.
    """

    image: int
    places: Int[Tensor, " L"]
    rows: int
    columns: int
    follows: bool = False


@dataclass(frozen=True)
class Layout:
    """All segments of a prompt [B, ``width``], which of their tokens a tower left, their scores.

    ``last`` marks a token that ends its row (None: none does): the next word is read from it.
    """

    segments: list[Segment]
    width: int
    alive: Bool[Tensor, " T"] | None = None
    scores: Float[Tensor, " T"] | None = None
    last: Bool[Tensor, " T"] | None = None

    @property
    def lengths(self) -> list[int]:
        """Tokens of each segment."""
        return [len(segment.places) for segment in self.segments]

    @property
    def places(self) -> Int[Tensor, " T"]:
        """Where all tokens stand in the flattened prompt, segment by segment."""
        return torch.cat([segment.places for segment in self.segments])


def lay_out(
    family: Family,
    core: Any,
    ids: Int[Tensor, "B N"],
    features: dict[str, Features],
    embeds: Float[Tensor, "B N C"],
    positions: Int[Tensor, "..."] | None,
    real: Bool[Tensor, "B N"] | None = None,
) -> Layout | None:
    """The visual tokens of a prompt that may leave; None without any.

    All is decided on the host, from ids and positions.
    """
    flat, segments, alive, scores, image = ids.flatten().cpu(), [], [], [], 0
    grids = _Grids(family, core, embeds, positions)
    for modality, setting in family.tokens:
        entries = features.get(modality)
        if entries is None or not entries.lengths:
            continue
        columns = (flat == getattr(core.config, setting)).nonzero().flatten()
        if len(columns) != sum(entries.lengths):
            raise InputError(
                f"the prompt has {len(columns)} placeholders of {modality} tokens for "
                f"{sum(entries.lengths)} features; give the model input_ids and features of the "
                "same prompt"
            )
        first = len(segments)
        for places in columns.split(entries.lengths):
            for one, part in grids.images(places, modality):
                segments += [Segment(image + one, *rest) for rest in part]
            image = 1 + max((segment.image for segment in segments), default=image - 1)
        own = torch.cat([segment.places for segment in segments[first:]])
        if entries.alive is None:
            alive.append(torch.ones_like(own, dtype=torch.bool))
        else:
            marks = torch.zeros(ids.numel(), dtype=torch.bool)
            marks[columns] = entries.alive.cpu()
            alive.append(marks[own])
        if entries.scores is not None:
            told = entries.scores.new_zeros(ids.numel())
            told[columns] = entries.scores
            scores.append(told[own])
    if not segments:
        return None
    last = _ends(ids, real)[torch.cat([segment.places for segment in segments])]
    every = torch.cat(alive) | last
    told = torch.cat(scores) if scores else None
    return Layout(
        segments,
        ids.shape[1],
        None if every.all() else every,
        told,
        last if last.any() else None,
    )


def _ends(ids: Int[Tensor, "B N"], real: Bool[Tensor, "B N"] | None) -> Bool[Tensor, " M"]:
    """Marks the last token of every row that is no padding, in the flattened prompt."""
    places = torch.arange(ids.shape[1]).expand(ids.shape)
    places = places if real is None else places.where(real.cpu(), -1)
    return (places == places.amax(1, keepdim=True)).flatten()


Rectangle = tuple["Int[Tensor, ' L']", int, int, bool]


class _Grids:
    """How the tokens of one entry of the features lie on grids."""

    def __init__(self, family: Family, core: Any, embeds: Tensor, positions: Tensor | None) -> None:
        self.family, self.core, self.embeds, self.positions = family, core, embeds, positions

    def images(self, places: Tensor, modality: str) -> list[tuple[int, list[Rectangle]]]:
        """The images of an entry, each as its rectangles."""
        if self.family.grid == "tiles":
            tile = _tile(self.core.config)
            if len(places) % tile == 0:
                return [(at, [_square(part)]) for at, part in enumerate(places.split(tile))]
        if self.family.grid == "newline":
            return [(0, self._in_rows(places, modality))]
        if self.family.grid == "positions" and self.positions is not None:
            return [(0, self._by_position(places))]
        return [(0, [_square(places)])]

    def _in_rows(self, places: Tensor, modality: str) -> list[Rectangle]:
        """A first square or the frames of a video, then rows that end with a newline each."""
        rows = self.embeds.flatten(0, 1)[places.to(self.embeds.device)]
        ends = _are(rows, self.core.image_newline).cpu()
        vision = self.core.config.vision_config
        side = vision.image_size // vision.patch_size
        if modality == "video":
            pooled, inner = math.ceil(side / 2) ** 2, places[~ends]
            if len(inner) % pooled:
                return [_square(inner)]
            frames = [_square(frame) for frame in inner.split(pooled)]
            return [(*frame[:3], at > 0) for at, frame in enumerate(frames)]
        if ends[: side**2].any():
            return [_line(places[~ends])]
        first, rest = places[: side**2], places[side**2 :]
        ends = ends[side**2 :]
        inner, count = rest[~ends], int(ends.sum())
        parts = [_square(first)]
        if len(inner):
            even = count and len(inner) % count == 0
            parts.append((inner, count, len(inner) // count, False) if even else _line(inner))
        return parts

    def _by_position(self, places: Tensor) -> list[Rectangle]:
        """By the rows of M-RoPE: a frame ends where its time, its rows or the prompt jump."""
        assert self.positions is not None
        count = self.embeds.shape[1]
        axes = self.positions.expand(*self.positions.shape[:-2], len(self.embeds), count)
        if axes.ndim < 3:
            return [_square(places)]
        time, row, column = axes[-3:].cpu().flatten(1)[:, places]
        # Without M-RoPE all three rows count the tokens, which tells of no frame.
        counted = (time.diff() == 1) & (row.diff() == 1) & (column.diff() == 1)
        jumps = ~counted & ((time.diff() != 0) | (row.diff() < 0)) | (places.diff() != 1)
        lengths = torch.diff(jumps.nonzero().flatten() + 1, prepend=torch.tensor([0])).tolist()
        lengths.append(len(places) - sum(lengths))
        parts = zip(*(axis.split(lengths) for axis in (places, row, column)), strict=True)
        frames: list[Rectangle] = []
        for part, its_rows, its_columns in parts:
            high = int(its_rows.max() - its_rows.min()) + 1
            wide = int(its_columns.max() - its_columns.min()) + 1
            if high * wide != len(part):
                _, high, wide, _ = _square(part)
            follows = bool(frames) and frames[-1][1:3] == (high, wide)
            frames.append((part, high, wide, follows))
        return frames


def _are(rows: Float[Tensor, "T C"], newline: Float[Tensor, " C"]) -> Bool[Tensor, " T"]:
    """Which rows are the newline, which autocast may have rounded to half precision on the way."""
    ways = (newline.dtype, torch.bfloat16, torch.float16)
    return torch.stack([(rows == newline.to(way).to(rows)).all(-1) for way in ways]).any(0)


def _square(places: Tensor) -> Rectangle:
    side = math.isqrt(len(places))
    return (places, side, side, False) if side**2 == len(places) else _line(places)


def _line(places: Tensor) -> Rectangle:
    return places, 1, len(places), False


def _tile(config: Any) -> int:
    """Tokens of one tile, of which an image may have several."""
    vision = config.vision_config
    return (vision.image_size // vision.patch_size) ** 2 // config.scale_factor**2
