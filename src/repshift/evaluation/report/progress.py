"""A progress bar for a search."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Generator

    from repshift.search.candidates import Progress


@contextmanager
def search_bar(title: str = "search") -> Generator[Progress]:
    """What ``search_plan`` takes as ``progress``: a bar that counts the plans that were tried."""
    with tqdm(desc=title, unit=" plans", delay=1) as bar:

        def show(last: str) -> None:
            bar.set_postfix_str(last, refresh=False)  # a bar that is drawn before its delay is
            bar.update()  # never ended by a new line

        yield show
