"""``repshift index`` from a folder and the name of a model to the table and its report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from repshift.errors import InputError
from repshift.evaluation.collection.comparison import compare
from repshift.evaluation.collection.indexing import bring_up_to_date
from repshift.evaluation.collection.local import Local
from repshift.evaluation.collection.models import made_by, open_encoder
from repshift.evaluation.collection.places import find_files
from repshift.evaluation.collection.table import make_table
from repshift.evaluation.report.collection import IndexReport

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from repshift.evaluation.collection.models import Named


def index(
    places: str | Sequence[str],
    named: Named,
    out: Path,
    every: float,
    engine: Literal["local", "ray"] = "local",
    workers: int = 2,
) -> IndexReport:
    """Bring the table ``out`` up to date with the files of ``places``, and compare the models."""
    files = find_files(*([places] if isinstance(places, str) else places))
    encoder = open_encoder(named)
    known = made_by(named, encoder, every)
    table = make_table(out, known)
    local = Local(encoder, workers, every)
    with table.alone():
        if engine == "ray":
            from repshift.evaluation.collection.on_ray import OnRay

            outcome = bring_up_to_date(table, files, OnRay(named, encoder, every))
        else:
            outcome = bring_up_to_date(table, files, local)
    if not len(table):
        raise InputError(
            f"none of the {len(files)} files can be used; the first: {outcome.skipped[0]}"
        )
    comparison = None
    if outcome.worked or not all(path.exists() for path in IndexReport.files(out)):
        comparison = compare(encoder, files, workers, every)
    report = IndexReport(
        out, len(table), known, outcome, comparison, local.encoding if engine == "local" else None
    )
    if comparison is not None or outcome.worked:
        report.write()
    return report
