"""Inside the language model: visual tokens leave after a layer, and what they gave stays."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch

from repshift.errors import InputError
from repshift.runtime.arguments import bind, parameters_of, rebind
from repshift.runtime.attachment import Hook, ReplacedForward, ReplacedMethod
from repshift.runtime.attention import AttentionRecorder
from repshift.sequence.amounts import Level
from repshift.sequence.segments import Segments
from repshift.sequence.token_map import gather
from repshift.vision_language.columns import causal, follow, gather_rotary, weighed
from repshift.vision_language.select import choose
from repshift.vision_language.snapshots import layer_snapshots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

    from repshift.vision_language.decision import Decision
    from repshift.vision_language.engine import VisionLanguageEngine


class LayerSite:
    """One layer of the language model.

    What it is given follows the kept tokens. Tokens leave where the next layer is entered, because
    features may be added between the two (DeepStack).
    """

    def __init__(self, engine: VisionLanguageEngine, index: int) -> None:
        self.engine, self.index = engine, index
        self.layer = engine.parts.layers[index]
        self.parameters = parameters_of(self.layer)
        plan = engine.plan.decoder
        self.acts = plan is not None and index in plan.acting
        self.needs = plan.required() if plan is not None and self.acts else frozenset()

    def attach(self) -> Iterator[ReplacedMethod | RemovableHandle]:
        """Attach to the layer, and to what reads the stream between attention and MLP."""
        yield ReplacedForward(self.engine, self.layer, self.run)
        if "middle" in self.needs:
            middle = self.engine.parts.middles[self.index]
            yield middle.register_forward_pre_hook(Hook(self.engine, self._capture))

    def run(
        self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """The layer's forward on the tokens that are left."""
        decision = self.engine._decision
        if decision is None or self._passes(decision):
            return forward(*args, **kwargs)
        given = bind(self.parameters, args, kwargs)
        stream, new = given["hidden_states"], {}
        if decision.pending is not None:
            stream = new["hidden_states"] = _leave(decision, self.index, stream)
        recorder = self._follow(decision, given, stream, new)
        bound, named = rebind(self.parameters, args, kwargs, new)
        self.engine._local.middle = None
        with recorder or nullcontext():
            output = forward(*bound, **named)
        if self.acts and decision.visual is not None:
            after = output[0] if isinstance(output, tuple) else output
            self._decide(decision, stream, after, recorder)
        return output

    def _passes(self, decision: Decision) -> bool:
        """Whether the layer decides nothing and has what masks and positions were made for."""
        if self.acts or decision.dropping or decision.pending is not None:
            return False
        sees = decision.sees(self.index)
        return sees.at is None and sees.size is None

    def _capture(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        self.engine._local.middle = args[0]

    def _follow(
        self, decision: Decision, given: Mapping[str, Any], stream: Tensor, new: dict[str, Any]
    ) -> AttentionRecorder | None:
        """Masks and positions of the tokens that are left; what weighs or records their keys."""
        stage, sees = decision.stage(self.index), decision.sees(self.index)
        if stage.rows is not None:
            tables = given["position_embeddings"]
            new["position_embeddings"] = tuple(gather_rotary(one, stage.rows) for one in tables)
        if decision.dropping and given.get("position_ids") is not None:
            # Flash attention would take a jump for the end of a sequence; the table has them.
            new["position_ids"] = None
        if hasattr(self.layer, "linear_attn"):
            mask = given.get("attention_mask")
            if mask is not None and stage.rows is not None:
                new["attention_mask"] = follow(mask, None, stage.rows, stage.closed)
            return None
        needs = self.needs & {"keys", "last query"} if decision.visual is not None else frozenset()
        size = sees.size
        mask = before = given.get("attention_mask")
        flash = "flash" in (self.engine.parts.language.config._attn_implementation or "")
        if sees.at is not None:
            mask = follow(mask, stage.rows, sees.at, sees.closed)
            if mask is None and sees.closed is not None:
                # Of the first layer a mask was made; here rows keep different numbers only now.
                mask = ~sees.closed if flash else causal(stream.shape[1], sees.closed)
        if size is not None:
            size = size.to(torch.promote_types(stream.dtype, torch.float32))
        if size is not None and flash:
            raise InputError(
                "flash attention of transformers cannot weigh merged tokens by their size; load "
                'the model with attn_implementation="sdpa", or prune (merge=False)'
            )
        if size is not None and mask is not None:
            mask, size = weighed(mask, size, stream.dtype), None
        elif size is not None and stream.shape[1] == 1:
            mask, size = size.log().to(stream.dtype)[:, None, None], None
        if mask is not before:
            new["attention_mask"] = mask
        if not needs and size is None:
            return None
        batch, count = len(stream), sees.at.shape[1] if sees.at is not None else decision.count
        return AttentionRecorder(needs, size, Segments(batch, count))

    def _decide(
        self,
        decision: Decision,
        entry: Tensor,
        exit_: Tensor,
        recorder: AttentionRecorder | None,
    ) -> None:
        plan, visual = self.engine.plan.decoder, decision.visual
        assert plan is not None
        assert visual is not None
        amount = plan.amount(self.index)
        assert not isinstance(amount, Level)  # a plan for a language model refuses it
        each = amount.of_each(torch.tensor(visual.lengths)).tolist()
        if not any(each):
            return
        segments = Segments.pack(torch.tensor(visual.lengths))
        streams = {"exit": exit_}
        if "entry" in self.needs:
            streams["entry"] = entry
        if "middle" in self.needs:
            streams["middle"] = self.engine._local.middle
        snapshot = layer_snapshots(self.index, decision, segments, streams, recorder, self.needs)
        scores = plan.score.rate(snapshot)
        verify = self.engine._verify(scores)
        self.engine.check(scores, snapshot, plan.score, f"after layer {self.index}")
        choice = choose(snapshot, scores, segments, each, plan.reduction, visual.size, verify)
        decision.pending = (self.index + 1, choice)


def _leave(decision: Decision, layer: int, stream: Tensor) -> Tensor:
    """The stream without the tokens that the layer before decided to drop."""
    assert decision.pending is not None
    assert decision.visual is not None
    (first, choice), decision.pending = decision.pending, None
    if first != layer:
        raise InputError(
            f"layer {first} of the language model did not run after layer {first - 1}; call "
            "compress(model, plan) again after a change of its layers"
        )
    places, flat = decision.visual.places, stream.flatten(0, 1)
    stays = torch.ones(len(flat), dtype=torch.bool, device=stream.device)
    stays[places] = False
    stays[places[choice.kept]] = True
    if choice.step.share is not None:
        flat = flat.index_copy(0, places[choice.kept], choice.apply(flat[places]))
    index = decision.drop(layer, choice, stays.view(stream.shape[:2]))
    return gather(flat.view_as(stream), index)


class DeepStackSite:
    """Where a language model adds features to visual tokens after its first layers."""

    def __init__(self, engine: VisionLanguageEngine) -> None:
        self.engine = engine

    def attach(self) -> Iterator[ReplacedMethod]:
        """Attach to the language model, if it does so."""
        language = self.engine.parts.language
        if hasattr(type(language), "_deepstack_process"):
            yield ReplacedMethod(self.engine, language, "_deepstack_process", self.run)

    def run(
        self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """The features of the tokens that are left."""
        decision = self.engine._decision
        names = ("hidden_states", "visual_pos_masks", "visual_embeds")
        given = bind(names, args, kwargs)
        if decision is None or (rows := decision.last().rows) is None:
            return method(*args, **kwargs)
        plan = self.engine.plan.decoder
        assert plan is not None
        if plan.reduction.proportional_attention:
            raise InputError(
                "features are added to visual tokens after this layer (DeepStack), and merged "
                "tokens have several; merge after a later layer, or prune"
            )
        marks, embeds = given["visual_pos_masks"], given["visual_embeds"]
        order = (marks.flatten().cumsum(0) - 1).view_as(marks)
        closed = decision.last().closed
        moved = marks.gather(1, rows)
        moved = moved if closed is None else moved & ~closed
        return method(given["hidden_states"], moved, embeds[order.gather(1, rows)[moved]])
