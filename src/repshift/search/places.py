"""What is tried at the three places of a vision-language model: every combination of a row each."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

from repshift.plan import Plan
from repshift.scores import Greedy, LastQuery, Shift
from repshift.vision_language.plan import Keep, VisionLanguagePlan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from repshift.scores import Score

# Where, as parts of the depth; what share leaves there; which of them.
TOWER_PARTS, TOWER_SHARES, TOWER_SCORES = (1 / 3,), (0.3, 0.5, 0.7), (Shift("block"),)
DECODER_PARTS, DECODER_SHARES = (1 / 6, 1 / 3), (0.5, 0.75, 0.9)
DECODER_SCORES = (LastQuery(), Shift("block"))
# How the prompt keeps as many as the cost allows.
FARTHEST = Greedy(diversity=10.0)
KEEPS = (Keep(1.0, FARTHEST, merge=True), Keep(1.0, FARTHEST, merge=False))


def candidates(tower: int, decoder: int) -> list[VisionLanguagePlan]:
    """All combinations, for a tower and a decoder of so many blocks; the prompt keeps all yet."""
    towers = _plans(tower, TOWER_PARTS, TOWER_SHARES, TOWER_SCORES)
    decoders = _plans(decoder, DECODER_PARTS, DECODER_SHARES, DECODER_SCORES)
    return [VisionLanguagePlan(*places) for places in product(towers, (None, *KEEPS), decoders)]


def keeping(plan: VisionLanguagePlan, share: float) -> VisionLanguagePlan:
    """The plan with so much of the prompt."""
    assert plan.prompt is not None
    return replace(plan, prompt=replace(plan.prompt, amount=share))


def _plans(
    depth: int, parts: Sequence[float], shares: Sequence[float], scores: Sequence[Score]
) -> list[Plan | None]:
    """None, and a drop after each block by each score; nothing is saved after the last block."""
    blocks = sorted({max(0, round(part * depth) - 1) for part in parts})
    return [
        None,
        *(
            Plan({block: share}, score)
            for block, share, score in product(blocks, shares, scores)
            if block < depth - 1
        ),
    ]
