"""Fewer tokens, same weights: Representation Shift for pretrained vision and video models."""

from importlib.metadata import version

from repshift.adapters.spec import EagerAttention, EncoderSpec
from repshift.compress import Compression, compress
from repshift.errors import InputError
from repshift.plan import Plan
from repshift.reductions import Prune
from repshift.scores import ClassAttention, ColumnAttention, Random, Shift
from repshift.shift import representation_shift
from repshift.tokens import TokenMap

__version__ = version("repshift")

__all__ = [
    "ClassAttention",
    "ColumnAttention",
    "Compression",
    "EagerAttention",
    "EncoderSpec",
    "InputError",
    "Plan",
    "Prune",
    "Random",
    "Shift",
    "TokenMap",
    "compress",
    "representation_shift",
]
