"""One call of the model: what it reads, while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Bool, Int
    from torch import Tensor

    from repshift.vision_language.conversation import Conversation
    from repshift.vision_language.layout import Features


@dataclass
class Call:
    """One call of the model, while it runs.

    Attributes:
        ids: The prompt.
        features: By modality, what was read of images.
        past: What the cache held before.
        real: The tokens that are no padding; None: all are.
        cached: Whether what is read is kept for the next word.
    """

    ids: Int[Tensor, "B N"] | None
    features: dict[str, Features] = field(default_factory=dict)
    past: Conversation | None = None
    real: Bool[Tensor, "B N"] | None = None
    cached: bool = True


def cache_of(given: Mapping[str, Any]) -> Any:
    """The key-value cache among the arguments, by either of its names."""
    cache = given.get("cache")
    return given.get("past_key_values") if cache is None else cache
