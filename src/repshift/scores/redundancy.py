"""How little a token resembles its neighbours in the sequence: what is said twice may leave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch.nn import functional as F

from repshift.method import check_choice
from repshift.registry import register
from repshift.scores.base import Need, Score, Snapshots
from repshift.sequence.similarity import directions

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

ROWS = 1024  # compared at once
Direction = Literal["keys", "mlp", "block", "tokens"]


@register
@dataclass(frozen=True)
class Redundancy(Score):
    """Keep the tokens at odd places; of the others, those least like any of them.

    One minus the largest cosine of a token at an even place to one at an odd place, as ToMe matches
    (arXiv 2210.09461), but without merging; 2 at odd places. ``keys`` compares the keys, ``mlp``
    the updates that the MLP makes, ``block`` those of the whole block, ``tokens`` the tokens
    themselves. At most half of the tokens
    should leave at once: beyond that, those at odd places go in no order of merit.
    """

    name: ClassVar[str] = "redundancy"
    of: Direction = "mlp"

    def __post_init__(self) -> None:
        check_choice(self.name, self.of, Direction)

    def required(self) -> frozenset[Need]:
        needs: dict[str, frozenset[Need]] = {
            "keys": frozenset({"keys"}),
            "mlp": frozenset({"middle", "exit"}),
            "block": frozenset({"entry", "exit"}),
            "tokens": frozenset(),
        }
        return needs[self.of]

    @property
    def comparable_across_images(self) -> bool:
        return True

    def __call__(self, snapshot: Snapshots) -> Float[Tensor, "B N"]:
        direction = directions(self._compared(snapshot))
        odd = direction[:, 1::2]
        first = snapshot.prefix // 2  # odd places among the prefix tokens are not compared
        nearest = []
        for rows in direction[:, 0::2].split(ROWS, dim=1):  # so that memory stays linear in N
            likeness = rows @ odd.transpose(1, 2)
            if snapshot.protected is not None:
                likeness = likeness.masked_fill(snapshot.protected[:, None, 1::2], -1)
            # Where no odd place is left to be like, a token is like none.
            nearest.append(F.pad(likeness[..., first:], (0, 1), value=-1).amax(-1))
        scores = direction.new_full(direction.shape[:2], 2.0)
        scores[:, 0::2] = 1 - torch.cat(nearest, dim=1)
        return scores

    def _compared(self, snapshot: Snapshots) -> Float[Tensor, "B N C"]:
        if self.of == "tokens":
            return snapshot.tokens
        if self.of == "keys":
            assert snapshot.keys is not None
            return snapshot.keys.mean(1)
        before = snapshot.middle if self.of == "mlp" else snapshot.entry
        assert snapshot.exit is not None
        assert before is not None
        return snapshot.exit - before
