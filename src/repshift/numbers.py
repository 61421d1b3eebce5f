"""Numbers as users pass them, numpy's and PyTorch's among them, checked and made plain."""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import Any

from repshift.errors import InputError


def as_whole(value: Any) -> int | None:
    """The plain integer; None if the value is none."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except (TypeError, ValueError):  # ValueError: an array of several
        return None


def whole(value: Any, what: str, least: int, most: int | None = None) -> int:
    """The plain integer; ``InputError`` that says ``what`` it is of if it is none in that range."""
    number = as_whole(value)
    if number is None or number < least or (most is not None and number > most):
        extent = f"from {least} up" if most is None else f"from {least} to {most}"
        raise InputError(f"{what} is {value!r}; expected a whole number {extent}")
    return number


def as_real(value: Any) -> float | None:
    """The plain number; None if the value is none."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    return float(value)


def finite(value: Any, what: str, least: float = 0) -> float:
    """The plain number; ``InputError`` if it is none, infinite or below ``least``."""
    number = as_real(value)
    if number is None or not least <= number < math.inf:
        raise InputError(f"{what} is {value!r}; expected a number from {least} up")
    return number
