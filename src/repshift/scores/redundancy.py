"""How little a token resembles its neighbours in the sequence: what is said twice may leave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from torch.nn import functional as F

from repshift.method import check_choice
from repshift.registry import register
from repshift.scores.base import Need, Score, Snapshots

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

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
        if self.of == "keys":
            assert snapshot.keys is not None
            direction = snapshot.keys.mean(1)
        elif self.of == "tokens":
            direction = snapshot.tokens
        else:
            before = snapshot.middle if self.of == "mlp" else snapshot.entry
            assert snapshot.exit is not None
            assert before is not None
            direction = snapshot.exit - before
        direction = F.normalize(direction.float() if direction.itemsize < 4 else direction, dim=-1)
        likeness = direction[:, 0::2] @ direction[:, 1::2].transpose(1, 2)
        if snapshot.protected is not None:
            likeness = likeness.masked_fill(snapshot.protected[:, None, 1::2], -1)
        first = snapshot.prefix // 2  # odd places among the prefix tokens are not compared
        # Where no odd place is left to be like, a token is like none.
        likeness = F.pad(likeness[..., first:], (0, 1), value=-1).amax(-1)
        scores = direction.new_full(direction.shape[:2], 2.0)
        scores[:, 0::2] = 1 - likeness
        return scores
