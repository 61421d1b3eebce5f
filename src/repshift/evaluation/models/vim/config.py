"""The sizes in which Vim is published (arXiv 2401.09417, table 1)."""

from __future__ import annotations

from dataclasses import dataclass

from repshift.errors import InputError


@dataclass(frozen=True)
class VimConfig:
    """Sizes of a Vim model.

    Images are square with ``image`` pixels a side and ``channels`` colours. ``state`` is the number
    of entries in the state of every channel; the scan runs on twice ``width`` channels.
    """

    name: str
    width: int
    depth: int = 24
    state: int = 16
    image: int = 224
    patch: int = 16
    channels: int = 3
    classes: int = 1000

    @classmethod
    def named(cls, name: str) -> VimConfig:
        """``vim-tiny`` or ``vim-small``; ``InputError`` for another name."""
        if name not in CONFIGS:
            raise InputError(f"unknown Vim model {name!r}; there are {', '.join(CONFIGS)}")
        return CONFIGS[name]


CONFIGS = {
    config.name: config for config in (VimConfig("vim-tiny", 192), VimConfig("vim-small", 384))
}
