"""How near a token is to the words of the prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from repshift.errors import InputError
from repshift.registry import register
from repshift.scores.base import Need, Score, Snapshots
from repshift.sequence.similarity import directions

if TYPE_CHECKING:
    from jaxtyping import Float


@register
@dataclass(frozen=True)
class Relevance(Score):
    """The largest cosine of a token to the embedding of a word of its prompt."""

    name: ClassVar[str] = "relevance"
    needs: ClassVar[frozenset[Need]] = frozenset({"text"})

    def __call__(self, snapshot: Snapshots) -> Float[torch.Tensor, "B N"]:
        if snapshot.text is None or snapshot.unread is None:
            raise InputError("relevance compares with the text of a prompt; use it in Keep")
        tokens, best = directions(snapshot.tokens), []
        # Prompt by prompt, and of its words only those that are text: memory is linear.
        for rows, words, unread in zip(tokens, snapshot.text, snapshot.unread, strict=True):
            text = directions(words[~unread]).T
            parts = [(part @ text).amax(-1) for part in rows.split(rows.shape[-1])]
            best.append(torch.cat(parts))
        return torch.stack(best)
