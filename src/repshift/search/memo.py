"""What a search has found out, so that a stopped one goes on where it was."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from repshift.errors import InputError
from repshift.files import write_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


class Memo:
    """Remember the results of calls by name, in a file if ``path`` is given.

    A search asks in the same order each time it runs, so remembering is resuming. A file that was
    written under other ``settings`` is begun anew.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any]) -> None:
        self.path, self.settings = path, dict(settings)
        self.known: dict[str, Any] = {}
        if path is not None and path.is_file():
            try:
                form = json.loads(path.read_text(encoding="utf-8"))
                settings, known = form["settings"], form["known"]
            except (OSError, ValueError, KeyError, TypeError):
                raise InputError(
                    f"{path} is not the state of a search; delete it or write elsewhere"
                ) from None
            if settings == self.settings:
                self.known = known

    def __call__(self, name: str, compute: Callable[[], Any]) -> Any:
        """The result of ``compute``, which is numbers, text, lists and objects of them."""
        if name not in self.known:
            self.known[name] = compute()
            if self.path is not None:
                form = {"settings": self.settings, "known": self.known}
                write_text(self.path, json.dumps(form, indent=1))
        return self.known[name]
