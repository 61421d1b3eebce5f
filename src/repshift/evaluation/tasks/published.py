"""What the papers print for UMT, to stand beside what is measured here.

Recalls are means of text-to-video and video-to-text, in percent (arXiv 2508.00367, tables 2 and 3;
the text calls them harmonic, the numbers are arithmetic means); accuracies are table 4's.
"""

from __future__ import annotations

from dataclasses import replace

from repshift.evaluation.tasks.variants import DENSE_FUSED, Variant
from repshift.plan import Plan
from repshift.reductions import VidTLDR
from repshift.scores import AttentionEntropy, ColumnAttention, Shift

# A method is a plan without drops; None is the dense model.
Key = tuple[str | None, str | None, Plan | None]  # data set, size of the model, method
ATTENTION, SHIFT = Plan({}, ColumnAttention()), Plan({}, Shift())
VID_TLDR, VID_TLDR_SHIFT = Plan({}, AttentionEntropy(), VidTLDR()), Plan({}, Shift(), VidTLDR())

_TABLE_2 = """
msrvtt         50.0/76.8/83.9 47.6/74.1/81.7 48.0/74.4/82.0 58.7/81.3/86.8 50.2/72.7/80.3 56.5/79.6/86.0
msvd           62.1/89.3/93.2 60.3/83.7/89.0 57.7/80.5/86.4 70.3/89.3/93.2 64.0/84.4/89.7 67.9/87.5/92.2
activitynet    57.2/83.7/91.6 54.2/81.1/89.6 50.3/78.5/88.1 65.6/89.1/94.9 53.2/80.3/88.8 62.9/87.3/93.8
didemo         62.1/86.8/92.1 57.7/82.7/88.6 56.9/83.3/89.2 70.8/90.6/94.5 58.2/83.8/89.9 67.3/89.1/93.1
lsmdc          32.7/54.1/63.3 29.0/50.1/59.2 30.0/51.1/59.7 42.2/64.9/72.3 34.4/56.6/64.1 39.8/62.9/70.0
ssv2-label     64.0/88.3/92.9 58.0/83.9/90.8 59.1/84.4/90.7 72.4/93.4/96.7 60.6/85.7/91.1 69.3/91.0/94.9
ssv2-template  74.6/93.9/96.8 65.4/91.3/95.0 69.0/92.4/95.3 78.4/95.9/97.8 67.5/91.9/94.9 74.8/95.0/97.5
"""  # noqa: E501
_TABLE_3 = """
msrvtt         50.8 50.8 58.5 58.6
msvd           62.7 62.8 70.4 70.6
activitynet    56.6 56.8 65.2 66.0
didemo         62.4 62.0 70.4 70.9
lsmdc          32.4 32.4 41.9 41.9
ssv2-label     63.8 63.5 72.1 71.8
ssv2-template  74.0 73.9 78.1 78.5
"""
_TABLE_4 = """
msrvtt-qa  44.9 44.8 44.6 49.5 49.5 49.0
msvd-qa    48.1 46.5 47.0 55.2 54.2 54.9
"""


def published(data: str | None, size: str | None, row: Variant) -> str:
    """The printed figures, ``R@1/R@5/R@10``, ``R@1`` or accuracy; ``-`` where there are none."""
    if row == DENSE_FUSED:
        return of_method(data, size, None)
    return of_method(data, size, replace(row.plans[0], drop={})) if row.plans else "-"


def of_method(data: str | None, size: str | None, method: Plan | None) -> str:
    """The same of a method: a plan without drops, or None for the dense model."""
    return _FIGURES.get((data, size, method), "-")


def _read(table: str, methods: tuple[Plan | None, ...]) -> dict[Key, str]:
    columns = [(size, method) for size in ("b16", "l16") for method in methods]
    return {
        (data, *column): figures
        for data, *line in map(str.split, table.strip().splitlines())
        for column, figures in zip(columns, line, strict=True)
    }


_FIGURES: dict[Key, str] = {
    **_read(_TABLE_2, (None, ATTENTION, SHIFT)),
    **_read(_TABLE_3, (VID_TLDR, VID_TLDR_SHIFT)),
    **_read(_TABLE_4, (None, ATTENTION, SHIFT)),
}
