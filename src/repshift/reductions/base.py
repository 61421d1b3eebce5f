"""What a reduction is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from repshift.method import Method

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from repshift.tokens import TokenMap


@dataclass(frozen=True)
class Reduction(Method):
    """Turns N tokens into fewer by their scores."""

    def __call__(
        self, tokens: Float[Tensor, "B N C"], scores: Float[Tensor, "B N"], drop: int, prefix: int
    ) -> tuple[Float[Tensor, "B K C"], TokenMap]:
        """The K = N - ``drop`` tokens that go on, and the map; the first ``prefix`` never leave."""
        raise NotImplementedError
