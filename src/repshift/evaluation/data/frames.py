"""Which frames of a video a model sees."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from repshift.errors import InputError


def middle_frames(total: int, count: int) -> list[int]:
    """The middle frame of each of ``count`` equal stretches of a video of ``total`` frames.

    A video with fewer frames gives all of them, and its last again and again. This is the rule by
    which UMT and its descendants are tested.
    """
    if total < 1 or count < 1:
        raise InputError(
            f"cannot take {count} frames of a video of {total}; both must be 1 or more"
        )
    # In floats, as the reference: for some lengths it falls just below the whole number.
    bounds = np.linspace(0, total, min(count, total) + 1).astype(int).tolist()
    frames = [(start + end - 1) // 2 for start, end in pairwise(bounds)]
    return frames + frames[-1:] * (count - len(frames))


def first_seconds(total: int, fps: float, seconds: float = 30.0) -> int:
    """How many of ``total`` frames at ``fps`` lie in the first seconds; DiDeMo is cut so."""
    return int(seconds * fps) if total / fps > seconds else total
