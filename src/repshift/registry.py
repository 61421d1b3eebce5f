"""The scores and reductions by name, as labels, plan files and the command line find them."""

from __future__ import annotations

from repshift.reductions import Merge, Prune, Reduction, ToMe, VidTLDR
from repshift.resnet.border import Border
from repshift.resnet.reductions import PerRowAndColumn, RowsAndColumns
from repshift.scores import (
    AttentionEntropy,
    ClassAttention,
    ClippedActivation,
    ColumnAttention,
    KeyNorm,
    MeanDistance,
    Random,
    Redundancy,
    Reverse,
    Score,
    Shift,
    StreamNorm,
)

SCORES: dict[str, type[Score]] = {
    score.name: score
    for score in (
        Shift,
        ClassAttention,
        ColumnAttention,
        AttentionEntropy,
        KeyNorm,
        ClippedActivation,
        StreamNorm,
        MeanDistance,
        Redundancy,
        Border,
        Random,
        Reverse,
    )
}

REDUCTIONS: dict[str, type[Reduction]] = {
    reduction.name: reduction
    for reduction in (Prune, Merge, ToMe, VidTLDR, RowsAndColumns, PerRowAndColumn)
}
