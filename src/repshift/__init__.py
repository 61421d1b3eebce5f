"""Fewer tokens, same weights: Representation Shift for pretrained vision and video models."""

import repshift.interrupts  # isort: skip  # noqa: F401  (before torch is imported)
from repshift.adapters import EncoderSpec, Pooling, register_adapter
from repshift.compress import compress
from repshift.compression import Compression
from repshift.errors import InputError
from repshift.input_frames import thin_videos, thinned
from repshift.input_size import resize_images, resized
from repshift.plan import Plan
from repshift.reductions import Merge, Prune, Reduction, ToMe, VidTLDR
from repshift.registry import register
from repshift.resnet.border import Border
from repshift.resnet.compression import ResNetCompression
from repshift.resnet.map import GridMap
from repshift.resnet.reductions import PerRowAndColumn, RowsAndColumns
from repshift.resnet.spec import ResNetSpec, Stage
from repshift.runtime.carriers import AttentionMask, Carrier, PaddingMask, PositionIds, Rotary
from repshift.scores import (
    AttentionEntropy,
    ClassAttention,
    ClippedActivation,
    ColumnAttention,
    Greedy,
    Grid,
    KeyNorm,
    LastQuery,
    MeanDistance,
    Need,
    Random,
    Redundancy,
    Relevance,
    Reverse,
    Score,
    Shift,
    Snapshots,
    StreamNorm,
    Temporal,
)
from repshift.search.adapt import adapt
from repshift.search.search_plan import SearchResult, search_plan
from repshift.search.search_vision_language import (
    VisionLanguageSearchResult,
    search_vision_language,
)
from repshift.sequence.amounts import Level
from repshift.sequence.token_map import Step, TokenMap
from repshift.shift import representation_shift
from repshift.vision_language.compression import VisionLanguageCompression
from repshift.vision_language.plan import Keep, VisionLanguagePlan

__version__ = "0.2.0"

__all__ = [
    "AttentionEntropy",
    "AttentionMask",
    "Border",
    "Carrier",
    "ClassAttention",
    "ClippedActivation",
    "ColumnAttention",
    "Compression",
    "EncoderSpec",
    "Greedy",
    "Grid",
    "GridMap",
    "InputError",
    "Keep",
    "KeyNorm",
    "LastQuery",
    "Level",
    "MeanDistance",
    "Merge",
    "Need",
    "PaddingMask",
    "PerRowAndColumn",
    "Plan",
    "Pooling",
    "PositionIds",
    "Prune",
    "Random",
    "Reduction",
    "Redundancy",
    "Relevance",
    "ResNetCompression",
    "ResNetSpec",
    "Reverse",
    "Rotary",
    "RowsAndColumns",
    "Score",
    "SearchResult",
    "Shift",
    "Snapshots",
    "Stage",
    "Step",
    "StreamNorm",
    "Temporal",
    "ToMe",
    "TokenMap",
    "VidTLDR",
    "VisionLanguageCompression",
    "VisionLanguagePlan",
    "VisionLanguageSearchResult",
    "adapt",
    "compress",
    "register",
    "register_adapter",
    "representation_shift",
    "resize_images",
    "resized",
    "search_plan",
    "search_vision_language",
    "thin_videos",
    "thinned",
]
