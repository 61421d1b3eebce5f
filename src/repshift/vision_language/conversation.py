"""What a key-value cache holds of a prompt: it lives with the cache, and follows it."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch

from repshift.errors import InputError
from repshift.runtime.attachment import copied

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from repshift.runtime.attachment import Attachment


@dataclass
class Held:
    """Which columns some layers hold, of those that the first layer holds.

    Attributes:
        at: Their places among those of the first layer; None: all.
        closed: Those that no query sees; None: none.
        size: From how many tokens each was merged; None: one.
    """

    at: Int[Tensor, "B P"] | None = None
    closed: Bool[Tensor, "B P"] | None = None
    size: Float[Tensor, "B P"] | None = None

    def select(self, rows: Int[Tensor, " S"]) -> Held:
        """The same of other rows of the batch."""
        return self._each(lambda part: part[rows.to(part.device)])

    def without(self, count: int) -> Held:
        """The same without the last ``count`` columns."""
        return self._each(lambda part: part[:, :-count])

    def _each(self, act: Callable[[Tensor], Tensor]) -> Held:
        parts = (self.at, self.closed, self.size)
        return Held(*(None if part is None else act(part) for part in parts))


@dataclass
class Conversation:
    """What was dropped of the tokens in a cache.

    Attributes:
        owner: The compression that dropped them.
        kept: For each column that the first layer holds of the prompt, its place in the dense one.
        seen: How many tokens the dense cache would hold of it.
        ahead: By row, how far the next position is ahead of the number of tokens.
        text: How many tokens of the prompt stand behind its last image.
        held: By the first layer from which it counts, what layers hold.
        inside: Whether the model runs, which counts what the layers hold.
    """

    owner: weakref.ref[Attachment]
    kept: Int[Tensor, "B P"]
    seen: int
    ahead: Int[Tensor, " B"]
    text: int
    held: dict[int, Held] = field(default_factory=dict)
    inside: bool = False

    def of(self, layer: int) -> Held:
        """What a layer holds."""
        return self.held[max(first for first in self.held if first <= layer)]

    def width(self, layer: int, cached: int) -> int:
        """How many columns the first layer holds when ``layer`` holds ``cached``."""
        at, prompt = self.of(layer).at, self.kept.shape[1]
        own = prompt if at is None else at.shape[1]
        if cached < own:
            raise InputError(
                f"the cache holds {cached} columns, fewer than the {own} of its prompt, of which "
                "its layers hold different tokens; crop it by cache.crop"
            )
        return prompt + cached - own

    def dense(self, width: int) -> int:
        """How many tokens were read when the first layer holds ``width`` columns."""
        return self.seen + width - self.kept.shape[1]

    def crop(self, count: int) -> None:
        """Forget the last ``count`` tokens of the prompt, which all layers hold."""
        places = torch.arange(self.seen - count, self.seen, device=self.kept.device)
        inside = count > self.text or not bool((self.kept[:, -count:] == places).all())
        if inside:
            raise InputError(
                f"the cache cannot be cropped by {count} tokens into its prompt, of which layers "
                f"hold different tokens up to the {self.text} behind the last image; crop those, "
                "or begin with a new cache"
            )
        self.kept, self.seen = self.kept[:, :-count], self.seen - count
        self.text -= count
        self.held = {first: held.without(count) for first, held in self.held.items()}

    def select(self, rows: Int[Tensor, " S"]) -> None:
        """Follow a change of the rows of the batch."""
        self.kept = self.kept[rows.to(self.kept.device)]
        self.ahead = self.ahead[rows.to(self.ahead.device)]
        self.held = {first: held.select(rows) for first, held in self.held.items()}


class Shortened:
    """What a cache from which tokens were dropped does in its own way.

    It counts the tokens that were read, as the dense cache does, so that ``generate`` and written
    loops go on at the right place; inside the model it counts what the layers hold.
    """

    repshift: Conversation

    layers: list[Any]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The tokens that were read; inside the model the columns that the first layer holds."""
        past, width = self.repshift, self._width()
        if past.inside:
            return width
        owner = past.owner()
        if owner is None or not owner._handles:
            raise InputError(
                "tokens were dropped from this cache under a plan that is detached by now, and "
                "the dense model would read it wrongly; go on under the same compression, or "
                "begin with a new cache"
            )
        return past.dense(width)

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """As ``get_seq_length``."""
        return self.get_seq_length()

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Masks are made for the columns of the first layer, and followed from there."""
        return self._width() + query_length, 0

    def _width(self) -> int:
        # A layer of linear attention has no columns.
        at = next(at for at, layer in enumerate(self.layers) if hasattr(layer, "get_seq_length"))
        return self.repshift.width(at, self.layers[at].get_seq_length())

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens, of the prompt those behind its last image."""
        written = self._width() - self.repshift.kept.shape[1]
        if (count := -tokens_to_remove - written) > 0:  # more than none is refused below
            self.repshift.crop(count)
        cast("Any", super()).crop(tokens_to_remove)

    def reorder_cache(self, beam_idx: Int[Tensor, " B"]) -> None:
        """Follow the beams."""
        cast("Any", super()).reorder_cache(beam_idx)
        self.repshift.select(beam_idx)

    def batch_select_indices(self, indices: Int[Tensor, " S"]) -> None:
        """Follow the rows that are taken."""
        cast("Any", super()).batch_select_indices(indices)
        self.repshift.select(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Follow the rows that are repeated."""
        cast("Any", super()).batch_repeat_interleave(repeats)
        rows = torch.arange(len(self.repshift.kept)).repeat_interleave(repeats)
        self.repshift.select(rows)

    def reset(self) -> None:
        """Forget the prompt."""
        cast("Any", super()).reset()
        self.__class__ = type(self).__mro__[2]
        del self.repshift

    def __copy__(self) -> Shortened:
        twin = object.__new__(type(self))
        vars(twin).update(vars(self))
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Shortened:
        return cast("Shortened", copied(self, memo))

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise InputError(
            "a cache from which tokens were dropped cannot be pickled or saved, since it goes on "
            "under its own compression alone; keep the prompt, and read it again"
        )


_KINDS: dict[type, type] = {}


def conversation_of(cache: Any) -> Conversation | None:
    """What was dropped from a cache; None if nothing was."""
    return cache.repshift if isinstance(cache, Shortened) else None


def remember(cache: Any, conversation: Conversation) -> None:
    """Let the cache know what was dropped from it."""
    if not isinstance(cache, Shortened):
        kind = type(cache)
        if kind not in _KINDS:
            _KINDS[kind] = type(kind.__name__, (Shortened, kind), {"__module__": kind.__module__})
        cache.__class__ = _KINDS[kind]
    cache.repshift = conversation
