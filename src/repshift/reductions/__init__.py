"""What becomes of dropped tokens, one way a file. A new one is its file and a line here."""

from repshift.reductions.base import Reduction as Reduction
from repshift.reductions.merge import Merge as Merge
from repshift.reductions.prune import Prune as Prune
from repshift.reductions.tome import ToMe as ToMe
from repshift.reductions.vid_tldr import VidTLDR as VidTLDR
