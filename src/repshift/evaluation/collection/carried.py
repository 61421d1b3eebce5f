"""Something for other processes, which may be made of the user's own code."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

from repshift.errors import InputError
from repshift.evaluation.imports import import_module, imported_files


class Carried:
    """``value``, before which another process imports the files that were imported here."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __getstate__(self) -> tuple[list[Path], bytes]:
        try:
            return list(imported_files), pickle.dumps(self.value)
        except Exception as error:  # a class's own, or AttributeError of a function in a function
            raise InputError(
                f"the transform of the model cannot be sent to other processes ({error}); make it "
                "a function or a class of its module, or pass --workers 0"
            ) from None

    def __setstate__(self, state: tuple[list[Path], bytes]) -> None:
        files, value = state
        for file in files:
            if file.stem not in sys.modules:
                import_module(str(file))
        self.value = pickle.loads(value)
