"""What is tried at the three places of a vision-language model: every combination of a row each."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

from repshift.plan import Plan
from repshift.reductions import Merge
from repshift.scores import Greedy, LastQuery, Redundancy, Shift
from repshift.vision_language.plan import Keep, VisionLanguagePlan

if TYPE_CHECKING:
    from collections.abc import Sequence


# Where, as parts of the depth; what share leaves there; by which methods.
TOWER_PARTS, TOWER_SHARES = (1 / 3,), (0.3, 0.5, 0.6, 0.7)
TOWER_METHODS = (Plan({}, Shift("block")), Plan({}, Redundancy("keys"), Merge()))
DECODER_PARTS, DECODER_SHARES = (1 / 6, 1 / 3), (0.5, 0.75, 0.9)
DECODER_METHODS = (Plan({}, LastQuery()), Plan({}, Shift("block")))
# How the prompt keeps as many as the cost allows.
FARTHEST = Greedy(diversity=10.0)
KEEPS = (Keep(1.0, FARTHEST, merge=True), Keep(1.0, FARTHEST, merge=False))


def candidates(tower: int, decoder: int) -> list[VisionLanguagePlan]:
    """All combinations, for a tower and a decoder of so many blocks; the prompt keeps all yet."""
    towers = _plans(tower, TOWER_PARTS, TOWER_SHARES, TOWER_METHODS)
    decoders = _plans(decoder, DECODER_PARTS, DECODER_SHARES, DECODER_METHODS)
    return [VisionLanguagePlan(*places) for places in product(towers, (None, *KEEPS), decoders)]


def keeping(plan: VisionLanguagePlan, share: float) -> VisionLanguagePlan:
    """The plan with so much of the prompt."""
    assert plan.prompt is not None
    return replace(plan, prompt=replace(plan.prompt, amount=share))


def drops_more(plan: VisionLanguagePlan, than: VisionLanguagePlan) -> bool:
    """Whether a plan drops in the tower and the decoder what another does, and more."""
    pairs = ((plan.tower, than.tower), (plan.decoder, than.decoder))
    more = [_at_least(ours, theirs) for ours, theirs in pairs]
    return all(more) and any(ours != theirs for ours, theirs in pairs)


def _at_least(plan: Plan | None, other: Plan | None) -> bool:
    if plan is None or other is None:
        return other is None
    same = replace(plan, drop={}) == replace(other, drop={}) and [*plan.drop] == [*other.drop]
    return same and [*plan.drop.values()] >= [*other.drop.values()]


def _plans(
    depth: int, parts: Sequence[float], shares: Sequence[float], methods: Sequence[Plan]
) -> list[Plan | None]:
    """None, and a drop after each block by each method; nothing is saved after the last block."""
    blocks = sorted({max(0, round(part * depth) - 1) for part in parts})
    return [
        None,
        *(
            replace(method, drop={block: share})
            for block, method, share in product(blocks, methods, shares)
            if block < depth - 1
        ),
    ]
