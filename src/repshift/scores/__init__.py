"""Importance scores, one a file."""

from repshift.scores.attention_entropy import AttentionEntropy
from repshift.scores.base import Need, Score, Snapshots
from repshift.scores.class_attention import ClassAttention
from repshift.scores.clipped_activation import ClippedActivation
from repshift.scores.column_attention import ColumnAttention
from repshift.scores.key_norm import KeyNorm
from repshift.scores.mean_distance import MeanDistance
from repshift.scores.random import Random
from repshift.scores.redundancy import Redundancy
from repshift.scores.reverse import Reverse
from repshift.scores.shift import Shift
from repshift.scores.stream_norm import StreamNorm

__all__ = [
    "AttentionEntropy",
    "ClassAttention",
    "ClippedActivation",
    "ColumnAttention",
    "KeyNorm",
    "MeanDistance",
    "Need",
    "Random",
    "Redundancy",
    "Reverse",
    "Score",
    "Shift",
    "Snapshots",
    "StreamNorm",
]
