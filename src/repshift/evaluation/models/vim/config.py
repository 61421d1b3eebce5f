"""The sizes in which Vim is published (arXiv 2401.09417, table 1)."""

from __future__ import annotations

from dataclasses import dataclass

from repshift.errors import InputError


@dataclass(frozen=True)
class VimConfig:
    """Sizes of a Vim model.

    Images are square with ``image`` pixels a side and ``channels`` colours. ``state`` is the number
    of entries in the state of every channel; the scan runs on twice ``width`` channels. A patch of
    ``patch`` pixels a side begins every ``stride`` pixels; with none given the patches lie side by
    side, with a smaller one than ``patch`` they overlap (8 in the published models with a "+").

    Raises:
        InputError: If the images hold no patch, or the stride is none of 1 to ``patch``.
    """

    name: str
    width: int
    depth: int = 24
    state: int = 16
    image: int = 224
    patch: int = 16
    channels: int = 3
    classes: int = 1000
    stride: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.patch <= self.image:
            raise InputError(
                f"{self.name}: images of {self.image} pixels a side hold no patch of {self.patch}; "
                "expected a patch from 1 pixel to the side of the image"
            )
        if not 1 <= self.step <= self.patch:
            raise InputError(
                f"{self.name}: the stride is {self.stride}; expected 1 to {self.patch}, the side "
                "of a patch (a larger one would leave out pixels)"
            )

    @property
    def step(self) -> int:
        """Pixels from one patch to the next: the stride, or the side of a patch."""
        return self.patch if self.stride is None else self.stride

    @property
    def side(self) -> int:
        """How many patches lie along each side of an image."""
        return (self.image - self.patch) // self.step + 1

    @classmethod
    def named(cls, name: str) -> VimConfig:
        """``vim-tiny`` or ``vim-small``; ``InputError`` for another name."""
        if name not in CONFIGS:
            raise InputError(f"unknown Vim model {name!r}; there are {', '.join(CONFIGS)}")
        return CONFIGS[name]


CONFIGS = {
    config.name: config for config in (VimConfig("vim-tiny", 192), VimConfig("vim-small", 384))
}
