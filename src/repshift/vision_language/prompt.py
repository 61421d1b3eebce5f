"""Between connector and language model: tokens leave the prompt before the first layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from repshift.errors import InputError
from repshift.reductions import Prune
from repshift.runtime.arguments import bind, parameters_of, rebind
from repshift.runtime.attachment import ReplacedForward
from repshift.sequence.segments import Segments
from repshift.sequence.token_map import gather
from repshift.vision_language.call import cache_of
from repshift.vision_language.checks import check_length, check_prompt
from repshift.vision_language.columns import causal, follow, gather_last
from repshift.vision_language.conversation import conversation_of, remember
from repshift.vision_language.decision import Decision, Visual
from repshift.vision_language.layout import lay_out
from repshift.vision_language.record import Record
from repshift.vision_language.select import choose
from repshift.vision_language.snapshots import prompt_snapshots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor

    from repshift.vision_language.call import Call
    from repshift.vision_language.engine import VisionLanguageEngine
    from repshift.vision_language.select import Choice


class PromptSite:
    """The forward of the language model: what it is given loses tokens."""

    def __init__(self, engine: VisionLanguageEngine) -> None:
        self.engine = engine
        self.parameters = parameters_of(engine.parts.language)

    def attach(self) -> Iterator[ReplacedForward]:
        """Attach to the language model."""
        yield ReplacedForward(self.engine, self.engine.parts.language, self.run)

    def run(
        self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """The language model's forward on the tokens that are kept."""
        given, call = bind(self.parameters, args, kwargs), self.engine._call
        cache = cache_of(given)
        if call is None:
            if conversation_of(cache) is not None:
                raise InputError(
                    "the language model is called by itself on a cache from which tokens were "
                    "dropped; call the whole model"
                )
            return forward(*args, **kwargs)
        decision, new = self._decide(call, cache, given)
        local = self.engine._local
        if decision is None:
            held = 0 if cache is None else cache.get_seq_length()
            if held == 0:
                local.record = Record.plain()
            elif self.engine._record is not None:
                self.engine._record.follow(held, given["inputs_embeds"].shape[1])
            return forward(*args, **kwargs)
        bound, named = rebind(self.parameters, args, kwargs, new)
        outer, local.decision = self.engine._decision, decision
        try:
            output = forward(*bound, **named)
        finally:
            local.decision = outer
        if decision.pending is not None:
            raise InputError(
                f"layer {decision.pending[0]} of the language model did not run, before which "
                "tokens were to leave; call compress(model, plan) again after a change of its "
                "layers"
            )
        after, past = cache_of(output), decision.past
        if decision.dropping and after is not None:
            past = decision.remembered(self.engine)
            remember(after, past)
        if decision.visual is not None:
            local.record = Record.of(decision, past, after)
        elif self.engine._record is not None:
            self.engine._record.grow(decision)
        return output

    def _decide(
        self, call: Call, cache: Any, given: Mapping[str, Any]
    ) -> tuple[Decision | None, dict[str, Any]]:
        """What this forward drops, and the arguments that follow."""
        embeds, positions = given["inputs_embeds"], given.get("position_ids")
        batch, count, _ = embeds.shape
        layout = None
        if call.features:
            if call.ids is None:
                raise InputError(
                    "pass input_ids beside the images, by which their tokens are found"
                )
            parts = self.engine.parts
            layout = lay_out(
                parts.family, parts.core, call.ids, call.features, embeds, positions, call.real
            )
        if layout is None and call.past is None:
            return None, {}
        cached = cache.get_seq_length() if cache is not None else 0
        dense = call.past.dense(cached) if call.past else cached
        tail = cached - (call.past.kept.shape[1] if call.past else 0)
        decision = Decision(call.past, tail, dense, batch, count, embeds.device)
        decision.tokens, decision.real = count, call.real
        check_length(self.engine.parts.language.config, dense + count)
        if layout is None:
            return decision, {}
        check_prompt(self.engine, call, cache, given)
        if positions is None:
            positions = torch.arange(dense, dense + count, device=embeds.device)[None]
        rotary = positions[1:] if positions.ndim == 3 and len(positions) == 4 else positions
        rotary = rotary.amax(0) if rotary.ndim == 3 else rotary
        decision.ahead = rotary.expand(batch, -1).amax(1) + 1 - dense - count
        decision.visual = Visual.first(layout, embeds.device)
        decision.left["image"] = torch.arange(sum(layout.lengths))
        if layout.alive is not None:
            decision.left["tower"] = decision.visual.packed
        return decision, self._drop(decision, call, embeds, positions, given, cache)

    def _drop(
        self,
        decision: Decision,
        call: Call,
        embeds: Tensor,
        positions: Tensor,
        given: Mapping[str, Any],
        cache: Any,
    ) -> dict[str, Any]:
        """Decide, and give the arguments that follow; none if all tokens stay."""
        visual = decision.visual
        assert visual is not None
        choice = self._choose(visual, call, embeds)
        if choice is None:
            return {}
        flat, places = embeds.flatten(0, 1), visual.places
        stays = torch.ones(len(flat), dtype=torch.bool, device=embeds.device)
        stays[visual.layout.places.to(embeds.device)] = False
        stays[places[choice.kept]] = True
        if choice.step.share is not None:
            flat = flat.index_copy(0, places[choice.kept], choice.apply(flat[places]))
        index = decision.drop(0, choice, stays.view(embeds.shape[:2]))
        new: dict[str, Any] = {"inputs_embeds": gather(flat.view_as(embeds), index)}
        moved = gather_last(positions, index)
        if moved.ndim == 3 and len(moved) == 4:
            # The first row counts the tokens for masks alone; a jump would end a sequence.
            counted = torch.arange(decision.before, decision.before + index.shape[1])
            moved = moved.clone()
            moved[0] = counted.to(moved)
        new["position_ids"] = moved
        new["attention_mask"] = self._mask(decision, index, given.get("attention_mask"), cache)
        if given.get("deepstack_visual_embeds") is not None:
            assert decision.visual is not None
            new |= _deep(decision.visual, choice, places, index, given)
        return new

    def _choose(self, visual: Visual, call: Call, embeds: Tensor) -> Choice | None:
        keep, lengths = self.engine.plan.prompt, visual.lengths
        each = [0] * len(lengths)
        if keep is not None:
            # A score that compares with the frame before says nothing of a first one: it stays.
            free = "frame before" in keep.score.required()
            each = [
                0 if free and not segment.follows else max(0, left - keep.of(len(segment.places)))
                for segment, left in zip(visual.layout.segments, lengths, strict=True)
            ]
        if not any(each) and visual.layout.alive is None:
            return None
        segments = Segments.pack(torch.tensor(lengths))
        kept = [count - drop for count, drop in zip(lengths, each, strict=True)]
        needs = keep.score.required() if keep and not keep.of_tower else frozenset()
        snapshot = prompt_snapshots(visual, segments, embeds, call, kept, needs, self.engine)
        if keep is None:
            scores = torch.zeros(snapshot.tokens.shape[:2], device=embeds.device)
            return choose(snapshot, scores, segments, each, Prune())
        if keep.of_tower:
            assert visual.layout.scores is not None
            told = visual.layout.scores.to(embeds.device)[visual.packed]
            scores = segments.batch(told[None])
        else:
            scores = keep.score.rate(snapshot)
        where = "between connector and language model"
        self.engine.check(scores, snapshot, keep.score, where)
        return choose(snapshot, scores, segments, each, keep.reduction)

    def _mask(self, decision: Decision, index: Tensor, mask: Any, cache: Any) -> Any:
        before, closed = decision.before, decision.sees(0).closed
        if mask is None:
            if closed is not None:
                return (~closed).long()
            # Without mask and cache, a jump of the positions would end a sequence.
            return torch.ones_like(index) if cache is None else None
        past = torch.arange(before, device=index.device).expand(len(index), -1)
        columns = torch.cat((past, index + before), dim=1)
        followed = follow(mask, index, columns, closed)
        if isinstance(followed, dict) and closed is not None:
            made = causal(index.shape[1], closed)
            return {name: made if one is None else one for name, one in followed.items()}
        return followed


def _deep(
    visual: Visual, choice: Choice, places: Tensor, index: Tensor, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The features that are added after the first layers (DeepStack), row by row as the tokens."""
    marks = given["visual_pos_masks"]
    rows = (marks.flatten().cumsum(0) - 1).to(places.device)[places]
    order = visual.places.argsort()
    moved = torch.zeros(index.shape, dtype=torch.bool, device=index.device)
    moved.view(-1)[visual.places] = True
    deep = [choice.apply(one[rows])[order] for one in given["deepstack_visual_embeds"]]
    return {"visual_pos_masks": moved, "deepstack_visual_embeds": deep}
