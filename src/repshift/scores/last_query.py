"""What the last word of the prompt attends to: one row of attention, no map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from repshift.errors import InputError
from repshift.registry import register
from repshift.scores.base import Need, Score, Snapshots

if TYPE_CHECKING:
    from jaxtyping import Float


@register
@dataclass(frozen=True)
class LastQuery(Score):
    """Attention that the last word pays to each token in a layer, mean over heads.

    As FastV (ECCV 2024), of one query's logits, softmax over the tokens of the image. No map is
    formed.
    """

    name: ClassVar[str] = "last-query"
    needs: ClassVar[frozenset[Need]] = frozenset({"keys", "last query"})

    def __call__(self, snapshot: Snapshots) -> Float[torch.Tensor, "B N"]:
        if snapshot.query is None or snapshot.keys is None:
            raise InputError(
                "last-query reads the query of a prompt's last word in a layer of a language "
                "model; use it in VisionLanguagePlan(decoder=...)"
            )
        query, keys = snapshot.query, snapshot.keys
        keys = keys.repeat_interleave(query.shape[1] // keys.shape[1], dim=1)
        dtype = torch.promote_types(keys.dtype, torch.float32)
        logits = (keys.to(dtype) @ query.to(dtype)[..., None])[..., 0] * keys.shape[-1] ** -0.5
        if snapshot.padding is not None:
            logits = logits.masked_fill(snapshot.padding[:, None], -torch.inf)
        return logits.softmax(-1).mean(1)
