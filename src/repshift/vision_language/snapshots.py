"""What a score sees of the visual tokens: a batch of segments, each with what is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from repshift.errors import InputError
from repshift.scores import Snapshots
from repshift.vision_language.select import batched

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor

    from repshift.runtime.attention import AttentionRecorder
    from repshift.scores import Need
    from repshift.sequence.segments import Segments
    from repshift.vision_language.call import Call
    from repshift.vision_language.decision import Decision, Visual
    from repshift.vision_language.engine import VisionLanguageEngine
    from repshift.vision_language.layout import Segment


def prompt_snapshots(
    visual: Visual,
    segments: Segments,
    embeds: Tensor,
    call: Call,
    kept: list[int],
    needs: Collection[Need],
    engine: VisionLanguageEngine,
) -> Snapshots:
    """Of the projected tokens, ``kept`` of which will stay in each segment."""
    device = embeds.device
    tokens = batched(segments, embeds.flatten(0, 1)[visual.places])
    padding = None if segments.padding is None else segments.padding.to(device)
    cells = before = text = unread = None
    if "cells" in needs:
        every = torch.cat([_cells(one) for one in visual.layout.segments]).to(device)
        cells = batched(segments, every[visual.packed])
    if "frame before" in needs:
        before = batched(segments, _frame_before(visual, embeds)[visual.packed])
    if "text" in needs:
        text, unread = _text(visual, embeds, call, engine)
    return Snapshots(
        0,
        0,
        tokens,
        protected=_protected(visual, segments, padding),
        padding=padding,
        keep=torch.tensor(kept, device=device),
        cells=cells,
        frame_before=before,
        text=text,
        unread=unread,
    )


def layer_snapshots(
    layer: int,
    decision: Decision,
    segments: Segments,
    streams: Mapping[str, Tensor],
    recorder: AttentionRecorder | None,
    needs: Collection[Need],
) -> Snapshots:
    """Of one layer of the language model: its ``streams``, and the keys that were recorded."""
    visual = decision.visual
    assert visual is not None
    seen = {
        name: batched(segments, stream.flatten(0, 1)[visual.places])
        for name, stream in streams.items()
    }
    if "keys" in needs:
        if recorder is None or recorder.keys is None or recorder.calls != 1:
            raise InputError(
                f"layer {layer} did not call scaled_dot_product_attention once, where its keys are "
                'read; load the model with attn_implementation="sdpa", or use a score that reads '
                "none, such as shift(block)"
            )
        rows = streams["exit"].shape[1]
        keys = recorder.keys[:, :, -rows:].transpose(1, 2).flatten(0, 1)[visual.places]
        seen["keys"] = batched(segments, keys).transpose(1, 2)
    if "last query" in needs:
        assert recorder is not None
        assert recorder.queries is not None
        seen["query"] = _last(recorder.queries, decision)[_rows(visual)]
    device = streams["exit"].device
    padding = None if segments.padding is None else segments.padding.to(device)
    return Snapshots(
        layer,
        0,
        seen["exit"],
        entry=seen.get("entry"),
        middle=seen.get("middle"),
        exit=seen["exit"],
        keys=seen.get("keys"),
        query=seen.get("query"),
        protected=_protected(visual, segments, padding),
        padding=padding,
    )


def _protected(visual: Visual, segments: Segments, padding: Tensor | None) -> Tensor | None:
    """What never leaves and takes up no other: a token that ends its row; and padding."""
    if visual.layout.last is None:
        return padding
    last = visual.layout.last.to(visual.packed.device)[visual.packed]
    last = batched(segments, last)
    return last if padding is None else last | padding


def _last(queries: Tensor, decision: Decision) -> Tensor:
    """The query of the last token of every row [B, H, D]."""
    if decision.real is None:
        return queries[:, :, -1]
    places = torch.arange(decision.real.shape[1], device=queries.device)
    last = (decision.real.to(queries.device) * places).amax(1)
    return queries[torch.arange(len(queries), device=queries.device), :, last]


def _rows(visual: Visual) -> Tensor:
    """The row of the batch that each segment stands in."""
    width = visual.layout.width
    return torch.tensor([int(one.places[0]) // width for one in visual.layout.segments])


def _frame_before(visual: Visual, embeds: Tensor) -> Tensor:
    """For each token the one of the same cell a frame earlier; itself in a first frame."""
    segments = visual.layout.segments
    before = [segments[at - (1 if one.follows else 0)].places for at, one in enumerate(segments)]
    return embeds.flatten(0, 1)[torch.cat(before).to(embeds.device)]


def _cells(segment: Segment) -> Tensor:
    """Row and column of each token of a segment [L, 2]."""
    grid = torch.cartesian_prod(torch.arange(segment.rows), torch.arange(segment.columns))
    return grid.view(-1, 2)


def _text(
    visual: Visual, embeds: Tensor, call: Call, engine: VisionLanguageEngine
) -> tuple[Tensor, Tensor]:
    """For each segment the embeddings of its row, and which of them are no text."""
    assert call.ids is not None
    config, family = engine.parts.core.config, engine.parts.family
    visuals = [call.ids == getattr(config, name) for _, name in family.tokens]
    unread = torch.stack(visuals).any(0).to(embeds.device)
    if call.real is not None:
        unread = unread | ~call.real.to(embeds.device)
    if bool(unread.all(1).any()):
        raise InputError("a prompt has no text to which its image could be relevant")
    rows = _rows(visual).to(embeds.device)
    return embeds[rows], unread[rows]
