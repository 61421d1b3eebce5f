"""Stochastic depth in training leaves branches out, and what a layer did cannot be seen then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repshift.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from repshift.scores import Need, Score

_STREAMS = {"entry", "middle", "exit", "branch", "stage entry"}


def refuse_stochastic_depth(
    score: Score, needs: frozenset[Need], module: nn.Module, where: str
) -> None:
    """``InputError`` if ``needs`` are streams between which a branch may be left out.

    Of an image whose branch was left out, all tokens have moved alike (not at all), and the score
    would say nothing of them.
    """
    compared = needs & _STREAMS
    if not module.training or len(compared) < 2:
        return
    for part in module.modules():
        # timm and transformers call it DropPath, some with the family's name before it.
        name = type(part).__name__
        rate = getattr(part, "p" if name == "StochasticDepth" else "drop_prob", None) or 0
        if name.endswith(("DropPath", "StochasticDepth")) and part.training and rate > 0:
            raise InputError(
                f"{where} leaves branches out at random in training ({name}, {rate:g}), and "
                f"{score} reads what they do; call model.eval(), make the model with a rate "
                "of 0, or use a score that compares no streams, such as stream-norm or key-norm"
            )
