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
    """Turns scores into a token map."""

    def __call__(
        self, tokens: Float[Tensor, "B N C"], scores: Float[Tensor, "B N"], drop: int, prefix: int
    ) -> TokenMap:
        """The map from N tokens to N - ``drop``; the first ``prefix`` tokens never leave."""
        raise NotImplementedError
