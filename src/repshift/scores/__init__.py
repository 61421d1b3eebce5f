"""Importance scores, one a file."""

from repshift.scores.attention import ClassAttention, ColumnAttention
from repshift.scores.base import Need, Score, Snapshots
from repshift.scores.random import Random
from repshift.scores.shift import Shift

SCORES: dict[str, type[Score]] = {
    score.name: score for score in (Shift, ClassAttention, ColumnAttention, Random)
}

__all__ = [
    "SCORES",
    "ClassAttention",
    "ColumnAttention",
    "Need",
    "Random",
    "Score",
    "Shift",
    "Snapshots",
]
