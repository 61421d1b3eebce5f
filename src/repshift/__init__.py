"""Fewer tokens, same weights: Representation Shift for pretrained vision and video models."""

from importlib.metadata import version

from repshift.adapters import EncoderSpec, Pooling, ResNetSpec, Stage, register_adapter
from repshift.compress import compress
from repshift.compression import Compression
from repshift.errors import InputError
from repshift.line_compression import LineCompression
from repshift.lines import LineMap
from repshift.plan import Plan
from repshift.reductions import Lines, LineTokens, Merge, Prune, ToMe, VidTLDR
from repshift.scores import (
    AttentionEntropy,
    Border,
    ClassAttention,
    ClippedActivation,
    ColumnAttention,
    KeyNorm,
    MeanDistance,
    Random,
    Redundancy,
    Reverse,
    Shift,
    StreamNorm,
)
from repshift.search.adapt import adapt
from repshift.search.search_plan import SearchResult, search_plan
from repshift.shift import representation_shift
from repshift.tokens import TokenMap

__version__ = version("repshift")

__all__ = [
    "AttentionEntropy",
    "Border",
    "ClassAttention",
    "ClippedActivation",
    "ColumnAttention",
    "Compression",
    "EncoderSpec",
    "InputError",
    "KeyNorm",
    "LineCompression",
    "LineMap",
    "LineTokens",
    "Lines",
    "MeanDistance",
    "Merge",
    "Plan",
    "Pooling",
    "Prune",
    "Random",
    "Redundancy",
    "ResNetSpec",
    "Reverse",
    "SearchResult",
    "Shift",
    "Stage",
    "StreamNorm",
    "ToMe",
    "TokenMap",
    "VidTLDR",
    "adapt",
    "compress",
    "register_adapter",
    "representation_shift",
    "search_plan",
]
