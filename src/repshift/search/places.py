"""What is tried at the three places of a vision-language model: every combination of a row each.

One place of a combination is fitted to the cost, its *lever*: the prompt, of which as much is kept
as the cost allows, or without one the tower.
"""

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


# Where, as parts of the depth; what share is dropped there; by which methods.
TOWER_PARTS, TOWER_SHARES = (1 / 3,), (0.3, 0.5, 0.6, 0.7)
TOWER_METHODS = (Plan({}, Shift("block")), Plan({}, Redundancy("keys"), Merge()))
DECODER_PARTS, DECODER_SHARES = (1 / 6, 1 / 3), (0.5, 0.75, 0.9)
DECODER_METHODS = (Plan({}, LastQuery()), Plan({}, Shift("block")))
FITTED = 0.5  # stands for the share of a tower that is the lever
FARTHEST = Greedy(diversity=10.0)
KEEPS = (Keep(1.0, FARTHEST, merge=True), Keep(1.0, FARTHEST, merge=False))


def candidates(tower: int, decoder: int) -> list[VisionLanguagePlan]:
    """All combinations, for a tower and a decoder of so many blocks, not yet fitted to a cost."""
    alone = _plans(tower, TOWER_PARTS, (FITTED,), TOWER_METHODS)
    towers = _plans(tower, TOWER_PARTS, TOWER_SHARES, TOWER_METHODS)
    decoders = _plans(decoder, DECODER_PARTS, DECODER_SHARES, DECODER_METHODS)
    rows = [*product(alone, (None,), decoders), *product(towers, KEEPS, decoders)]
    return [VisionLanguagePlan(*places) for places in rows]


def without_lever(plan: VisionLanguagePlan) -> VisionLanguagePlan:
    """The plan without what is fitted to a cost."""
    return replace(plan, tower=None) if plan.prompt is None else replace(plan, prompt=None)


def keeping(plan: VisionLanguagePlan, count: int, of: int) -> VisionLanguagePlan:
    """The plan with ``count`` left ``of`` the tokens of an image, by its lever."""
    if plan.prompt is not None:
        return replace(plan, prompt=replace(plan.prompt, amount=count / of))
    assert plan.tower is not None
    share = (of - count + 0.5) / of  # rounded down to tokens
    return replace(plan, tower=replace(plan.tower, drop=dict.fromkeys(plan.tower.drop, share)))


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
