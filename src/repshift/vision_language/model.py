"""The model around the language model: what one call reads, and what the cache held before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from repshift.errors import InputError
from repshift.runtime.arguments import bind, parameters_of, rebind
from repshift.runtime.attachment import ReplacedForward, ReplacedMethod
from repshift.vision_language.call import Call, cache_of
from repshift.vision_language.columns import follow
from repshift.vision_language.conversation import conversation_of
from repshift.vision_language.layout import Features

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor

    from repshift.vision_language.engine import VisionLanguageEngine


class ModelSite:
    """The forward of the model that scatters the features, and of its towers."""

    def __init__(self, engine: VisionLanguageEngine) -> None:
        self.engine = engine
        self.parameters = parameters_of(engine.parts.core)

    def attach(self) -> Iterator[ReplacedMethod]:
        """Attach to the model and to what gives it features."""
        core = self.engine.parts.core
        yield ReplacedForward(self.engine, core, self.run)
        for modality, _ in self.engine.parts.family.tokens:
            name = f"get_{modality}_features"
            yield ReplacedMethod(self.engine, core, name, _Reader(self.engine, modality).run)

    def run(
        self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """The model's forward, its masks and positions as the cache needs them."""
        given, local = bind(self.parameters, args, kwargs), self.engine._local
        if torch.compiler.is_compiling():
            raise InputError(
                "what was dropped from a prompt is kept beside its cache, which no compiled graph "
                "does; call the model without torch.compile"
            )
        cache = cache_of(given)
        call = Call(given.get("input_ids"), past=conversation_of(cache))
        cached, config = given.get("use_cache"), self.engine.parts.language.config
        call.cached = bool(getattr(config, "use_cache", True) if cached is None else cached)
        for modality, output in (given.get("mm_encoder_outputs") or {}).items():
            if output is not None:
                call.features[modality] = _known(output)
        new = self._continue(call, cache, given) if call.past else {}
        mask = new.get("attention_mask", given.get("attention_mask"))
        count = _count(given)
        if isinstance(mask, torch.Tensor) and mask.ndim == 2 and count <= mask.shape[1]:
            real = mask[:, mask.shape[1] - count :] != 0
            call.real = None if bool(real.all()) else real
        bound, named = rebind(self.parameters, args, kwargs, new)
        outer, local.call = getattr(local, "call", None), call
        try:
            if call.past:
                call.past.inside = True
            return forward(*bound, **named)
        finally:
            local.call = outer
            if call.past:
                call.past.inside = False

    def _continue(self, call: Call, cache: Any, given: Mapping[str, Any]) -> dict[str, Any]:
        """The mask and the positions of a call that goes on from a shortened cache."""
        past = call.past
        assert past is not None
        if past.owner() is not self.engine:
            raise InputError(
                "this cache was filled under another plan, whose tokens it lacks; go on under the "
                "same compression, or begin with a new cache"
            )
        count, held = _count(given), past.of(0)
        device = past.kept.device
        seen = cache.get_seq_length()
        embeds, ids = given.get("inputs_embeds"), given.get("input_ids")
        batch = len(ids if ids is not None else embeds)  # type: ignore[arg-type]
        if batch != len(past.kept):
            raise InputError(
                f"the cache holds {len(past.kept)} prompts and the call has {batch}; repeat the "
                "cache with batch_repeat_interleave, or begin with a new one"
            )
        every = torch.arange(past.seen, seen + count, device=device).expand(batch, -1)
        new: dict[str, Any] = {}
        mask = given.get("attention_mask")
        closed = held.closed
        if closed is not None:
            more = torch.zeros_like(every, dtype=torch.bool)
            closed = torch.cat((closed, more), dim=1)
        if isinstance(mask, torch.Tensor) and mask.ndim == 2:
            if mask.shape[1] != seen + count:
                raise InputError(
                    f"the attention mask has {mask.shape[1]} columns; expected {seen + count}, the "
                    f"{seen} tokens that were read before and {count} new ones"
                )
            columns = torch.cat((past.kept, every), dim=1).to(mask.device)
            new["attention_mask"] = follow(mask, None, columns, closed)
        elif mask is not None:
            raise InputError(
                "an attention mask that is made for every pair of tokens does not fit a cache from "
                "which tokens were dropped; pass the mask [B, N] of all tokens"
            )
        elif closed is not None:
            new["attention_mask"] = (~closed).long()
        if given.get("position_ids") is None:
            places = torch.arange(seen, seen + count, device=device)
            new["position_ids"] = places + past.ahead[:, None]
        return new


class _Reader:
    """What gives features: notes how many rows every image has."""

    def __init__(self, engine: VisionLanguageEngine, modality: str) -> None:
        self.engine, self.modality = engine, modality

    def run(
        self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """The method itself; one may call another."""
        local = self.engine._local
        outer, local.reading = getattr(local, "reading", False), True
        try:
            output = method(*args, **kwargs)
        finally:
            local.reading = outer
        if self.engine.tower is not None and not outer:
            # It travels on the output: ``generate`` reads the tower before it calls the model.
            tower = self.engine.tower
            scores = tower.scores.get(self.modality)
            output._tower = (output.pooler_output, tower.kept[self.modality], scores)
        call = getattr(local, "call", None)
        if call is not None and not outer:
            call.features[self.modality] = _lengths(output)
        return output


def _known(output: Any) -> Features:
    """Features that were computed before the call."""
    if getattr(output, "last_hidden_state", None) is None:
        raise InputError(
            "the features come without what the tower gave, as chunks of a prompt do, where an "
            "image may be cut in two; generate without prefill_chunk_size, and pass what "
            "get_image_features returns as it is"
        )
    return _lengths(output)


def _lengths(output: Any) -> Features:
    """How many rows each entry has, and which of them the tower kept."""
    entries = output.pooler_output
    lengths = [len(entry) for entry in entries]
    if (known := getattr(output, "_tower", None)) is None:
        return Features(lengths)
    # Beams repeat the entries of a prompt; images that are equal keep the same.
    first, *told = known
    places = [next(at for at, seen in enumerate(first) if _same(entry, seen)) for entry in entries]

    def repeated(rows: Tensor | None) -> Tensor | None:
        if rows is None:
            return None
        parts = rows.split([len(entry) for entry in first])
        return torch.cat([parts[place] for place in places])

    return Features(lengths, *map(repeated, told))


def _same(entry: Tensor, seen: Tensor) -> bool:
    return entry is seen or (entry.shape == seen.shape and torch.equal(entry, seen))


def _count(given: Mapping[str, Any]) -> int:
    """How many tokens a row of the call has."""
    ids, embeds = given.get("input_ids"), given.get("inputs_embeds")
    return int((ids if ids is not None else embeds).shape[1])  # type: ignore[union-attr]
