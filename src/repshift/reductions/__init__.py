"""What happens to the tokens that leave, one way a file."""

from repshift.reductions.base import Reduction
from repshift.reductions.lines import LineReduction, Lines, LineTokens
from repshift.reductions.merge import Merge
from repshift.reductions.prune import Prune
from repshift.reductions.tome import ToMe
from repshift.reductions.vid_tldr import VidTLDR

REDUCTIONS: dict[str, type[Reduction]] = {
    reduction.name: reduction for reduction in (Prune, Merge, ToMe, VidTLDR, Lines, LineTokens)
}

__all__ = [
    "REDUCTIONS",
    "LineReduction",
    "LineTokens",
    "Lines",
    "Merge",
    "Prune",
    "Reduction",
    "ToMe",
    "VidTLDR",
]
