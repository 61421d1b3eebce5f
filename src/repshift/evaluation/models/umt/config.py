"""The sizes in which UMT is published (arXiv 2303.16058, table of its model zoo)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from repshift.errors import InputError


@dataclass(frozen=True)
class UMTConfig:
    """Sizes of a UMT model.

    ``fusion_layer`` is the first text layer, from 0, that also attends to the video, and
    ``embed_width`` the width of the space in which videos and texts are compared. ``vocabulary``
    and ``positions`` are BERT's: word pieces known, and word pieces a text may have. The MLPs of
    the text model, and of the decoder of question answering, are ``text_mlp_ratio`` times as wide
    as its tokens, 4 in all published models; ``dataclasses.replace(UMTConfig.named("umt-b16"),
    text_mlp_ratio=2)`` is one of half that width.

    Raises:
        InputError: If ``text_mlp_ratio`` gives no MLP.
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
    text_mlp_ratio: float | int = 4

    def __post_init__(self) -> None:
        if not 0 < self.text_mlp_ratio < math.inf or self.text_mlp_width < 1:
            raise InputError(
                f"{self.name}: text_mlp_ratio is {self.text_mlp_ratio}; expected how many times as "
                "wide as its tokens the MLP of the text model is, such as 4"
            )

    @property
    def text_mlp_width(self) -> int:
        """How many channels the MLPs of the text model have inside."""
        return round(self.text_mlp_ratio * self.text_width)

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
