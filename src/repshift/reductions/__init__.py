"""What happens to the tokens that leave, one way a file."""

from repshift.reductions.base import Reduction
from repshift.reductions.prune import Prune

REDUCTIONS: dict[str, type[Reduction]] = {Prune.name: Prune}

__all__ = ["REDUCTIONS", "Prune", "Reduction"]
