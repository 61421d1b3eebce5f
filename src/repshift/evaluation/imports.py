"""Code of the user's own, by the name of a module or the path of a file."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repshift.errors import InputError

if TYPE_CHECKING:
    from types import ModuleType

# The files that were imported by their paths; another process finds their modules by nothing else.
imported_files: list[Path] = []


def import_module(given: str, flag: str = "--import") -> ModuleType:
    """Import a module by its name, or a file by its path; ``flag`` is what named it."""
    try:
        if given.endswith(".py"):
            return _import_file(Path(given).resolve())
        return importlib.import_module(given)
    except InputError as error:
        raise InputError(f"{flag} {given}: {error}") from None
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == given.partition(".")[0]:
            file = f"./{given.replace('.', '/')}.py"
            reason = f"there is no such module; install it, or pass its file, such as {file}"
        else:
            place = traceback.extract_tb(error.__traceback__)[-1]
            at = f"{Path(place.filename).name}, line {place.lineno}"
            reason = f"{type(error).__name__}: {error} ({at})"
        raise InputError(f"{flag} {given}: {reason}") from error


def needed(name: str, extra: str) -> Any:
    """A library that only some commands need; ``InputError`` that names the extra with it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"this needs {error.name}, which is not installed; install it with: "
            f"pip install 'repshift[{extra}]'"
        ) from None


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError("there is no such file; pass the name of a module or the path of a file")
    name = path.stem.replace(".", "_")
    known = importlib.util.find_spec(name)
    if known is not None and (known.origin is None or Path(known.origin).resolve() != path):
        raise InputError(f"there is another module {name}; rename the file")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    # Where dataclasses and pickle look for the module of a class.
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    imported_files.append(path)
    return module
