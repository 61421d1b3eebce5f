"""The sizes in which UMT is published (arXiv 2303.16058, table of its model zoo)."""

from __future__ import annotations

from dataclasses import dataclass

from repshift.errors import InputError


@dataclass(frozen=True)
class UMTConfig:
    """Sizes of a UMT model.

    ``fusion_layer`` is the first text layer, from 0, that also attends to the video, and
    ``embed_width`` the width of the space in which videos and texts are compared. ``vocabulary``
    and ``positions`` are BERT's: word pieces known, and word pieces a text may have.
    """

    name: str
    vision_width: int
    vision_depth: int
    vision_heads: int
    text_width: int
    text_depth: int
    text_heads: int
    fusion_layer: int
    embed_width: int
    patch: int = 16
    vocabulary: int = 30522
    positions: int = 512

    @classmethod
    def named(cls, name: str) -> UMTConfig:
        """``umt-b16`` or ``umt-l16``; ``InputError`` for another name."""
        if name not in CONFIGS:
            raise InputError(f"unknown UMT model {name!r}; there are {', '.join(CONFIGS)}")
        return CONFIGS[name]


CONFIGS = {
    config.name: config
    for config in (
        UMTConfig("umt-b16", 768, 12, 12, 768, 12, 12, fusion_layer=9, embed_width=512),
        UMTConfig("umt-l16", 1024, 24, 16, 1024, 24, 16, fusion_layer=19, embed_width=768),
    )
}
