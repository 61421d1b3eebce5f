"""From which release of transformers on a model was read."""

from __future__ import annotations

from importlib.metadata import version

from repshift.errors import InputError


def check_release(what: str, least: str) -> None:
    """``InputError`` if transformers is older than ``least``, by major and minor."""
    installed = version("transformers")
    if _order(installed) < _order(least):
        raise InputError(
            f"{what} needs transformers {least} or newer, and {installed} is installed: pip "
            f"install -U 'transformers>={least}'"
        )


def _order(release: str) -> tuple[int, ...]:
    major, minor = release.split(".")[:2]
    return int(major), int(minor)
