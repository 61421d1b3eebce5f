"""What happens to the tokens that leave, one way a file."""

from repshift.reductions.base import Reduction
from repshift.reductions.merge import Merge
from repshift.reductions.prune import Prune
from repshift.reductions.tome import ToMe
from repshift.reductions.vid_tldr import VidTLDR

__all__ = ["Merge", "Prune", "Reduction", "ToMe", "VidTLDR"]
