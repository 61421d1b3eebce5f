"""What users pass as a plan."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from repshift.errors import InputError
from repshift.plan import Plan

if TYPE_CHECKING:
    from repshift.sequence.amounts import Level

PlanLike = Plan | str | os.PathLike[str] | Mapping[int, "float | int | Level"]


def as_plan(given: PlanLike) -> Plan:
    """A plan: itself, a name of the papers, a schedule ``0:0.2,3:0.2``, a JSON file, or a dict of
    what is dropped by block.
    """
    if isinstance(given, Plan):
        return given
    if isinstance(given, Mapping):
        return Plan(given)
    if not isinstance(given, str | os.PathLike):
        raise InputError(
            f"the plan is {given!r}; pass a Plan, its name such as 'deit', its file, or what is "
            "dropped by block, such as {0: 0.2, 3: 0.2}"
        )
    path = Path(given)
    if not isinstance(given, str) or path.suffix == ".json" or os.path.isfile(path):
        return Plan.load(path)
    return Plan.from_schedule(given) if ":" in given else Plan.paper(given)
