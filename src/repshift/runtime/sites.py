"""Where tokens are dropped: after a block of an encoder, or inside it before its MLP."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from repshift.errors import InputError
from repshift.runtime.arguments import (
    bind,
    gather_arguments,
    padding_among,
    parameters_of,
    rebind,
)
from repshift.runtime.attachment import Hook, ReplacedForward
from repshift.runtime.block_state import BlockState
from repshift.runtime.checkpointing import recomputing
from repshift.runtime.interception import check_attention, recorder_of
from repshift.runtime.stochastic_depth import refuse_stochastic_depth
from repshift.runtime.streams import check_entry, check_exit, check_in_place, check_middle, norms_of
from repshift.runtime.trace import ForwardTrace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from jaxtyping import Float
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

    from repshift.runtime.attachment import ReplacedMethod
    from repshift.runtime.engine import Engine
    from repshift.sequence.segments import Segments


class BlockSite:
    """One block: what enters it follows the kept tokens, and what it returns loses some.

    It runs as a whole inside ``run``, in the place of the block's own forward; hooks on the second
    norm, the MLP or the mixer capture the stream on the way.
    """

    def __init__(self, engine: Engine, index: int) -> None:
        self.engine, self.index = engine, index
        self.block = engine.spec.blocks[index]
        self.parameters = parameters_of(self.block)

    def attach(self) -> Iterator[RemovableHandle | ReplacedMethod]:
        """Attach all that this plan needs of the block."""
        plan, spec, index = self.engine.plan, self.engine.spec, self.index
        yield ReplacedForward(self.engine, self.block, self.run)
        watched = self.engine.watch.get(index)
        if index not in plan.drop and watched is None:
            return
        if (
            index == min(plan.drop, default=None)
            and (first := next(self.block.children(), None)) is not None
        ):
            yield first.register_forward_pre_hook(self._hook(self._check_inside))
        norm2 = spec.norm2[index]
        needs = plan.required() | (watched.required() if watched else frozenset())
        if norm2 is not None and ("middle" in needs or plan.before_mlp):
            yield norm2.register_forward_pre_hook(self._hook(self._capture_middle))
            for norm in norms_of(self.block, norm2):
                yield norm.register_forward_hook(self._hook(self._capture_normed))
        if plan.before_mlp and (mlp := spec.mlp[index]) is not None:
            yield mlp.register_forward_hook(self._hook(self._expand))
        if "activation" in needs:
            mixer = spec.mixers[index]
            yield mixer.register_forward_pre_hook(self._hook(self._capture_activation))

    def run(
        self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """The block's forward with the arguments of the kept tokens; its output without others."""
        trace, state, args, kwargs = self._enter(args, kwargs)
        local = self.engine._local
        outer, local.state = getattr(local, "state", None), state
        try:
            with state.recorder or nullcontext():
                output = forward(*args, **kwargs)
        finally:
            local.state = outer
        if not recomputing():
            local.trace = trace  # the block may have called another forward
        return self._leave(trace, state, output)

    def _hook(self, action: Callable[..., Any]) -> Hook:
        return Hook(self.engine, action)

    def _state(self) -> BlockState | None:
        """That of this block while it runs in this thread; None while another or none does."""
        state = getattr(self.engine._local, "state", None)
        return state if state is not None and state.block == self.index else None

    def _check_inside(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        if self._state() is None and not recomputing():
            raise InputError(
                f"a part of block {self.index} ran outside its block, where no token can be "
                "dropped; a feature extractor that torch.fx made before compress does that. Take "
                "features with forward hooks on the blocks, or detach() first"
            )

    # What happens to a block, in order.

    def _enter(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[ForwardTrace, BlockState, tuple[Any, ...], Mapping[str, Any]]:
        spec, plan, index = self.engine.spec, self.engine.plan, self.index
        tokens = self._stream(check_entry(index, args[0] if args else None, bool(spec.packing)))
        if torch.jit.is_tracing():
            raise InputError(
                "torch.jit.trace would fix the number of images and of tokens in what it records; "
                "use torch.export or torch.onnx.export(..., dynamo=True), or detach() first"
            )
        given = bind(self.parameters, args, kwargs)
        for name, reason in spec.refused.items():
            if given.get(name) is not None:
                raise InputError(f"block {index} was given {name}: {reason}")
        trace = self._trace(tokens, given)
        segments = trace.segments_after(index - 1)
        gathered = gather_arguments(trace, index, given, spec.carriers, tokens.device)
        size = trace.size_after(index - 1)
        state = BlockState(index, plan, spec, segments, tokens, size)
        state.acts = self._acts(segments)
        state.watched = self.engine.watch.get(index)
        if state.acts:
            refuse_stochastic_depth(plan.score, plan.required(), self.block, f"block {index}")
        if watched := state.watched:
            refuse_stochastic_depth(watched, watched.required(), self.block, f"block {index}")
        if state.acts or state.watched:
            if segments.padding is None:
                padding = padding_among(given | gathered, spec.carriers, tokens)
                state.segments = replace(segments, padding=padding)
            state.inner = trace.protected_after(index - 1, spec, state.segments.padding)
            if spec.cells:
                state.cells = trace.cells_after(index - 1, spec)
        state.recorder = recorder_of(self.engine, self.block, state)
        if gathered:
            args, kwargs = rebind(self.parameters, args, kwargs, gathered)
        return trace, state, args, kwargs

    def _acts(self, segments: Segments) -> bool:
        """Whether the block drops tokens."""
        plan, spec, amount = self.engine.plan, self.engine.spec, self.engine.plan.amount(self.index)
        if spec.packing or segments.packed or amount.by_level:
            return bool(amount) and segments.count > 0
        patches, protected = segments.longest - spec.staying, spec.protected_tokens
        return plan.leaving(self.index, patches, protected=protected) >= spec.unit

    def _trace(self, tokens: Float[Tensor, "B N C"], given: Mapping[str, Any]) -> ForwardTrace:
        """The trace of the forward that this block runs in."""
        engine, index = self.engine, self.index
        if recomputing():
            trace = engine._recomputed.find(index, tokens)
            if trace is None and self._needs_trace(given):
                raise InputError(
                    "gradient checkpointing runs a block again, and the token positions of its "
                    "forward are gone; run backward before the next forward, and checkpoint each "
                    "block by itself, with use_reentrant=False"
                )
            return trace or self._begun(tokens)
        if index == 0:
            engine._local.trace = self._begun(tokens)
            engine._local.begun = getattr(engine._local, "begun", 0) + 1
        trace = engine._trace
        if trace is None or index in trace.counts:
            raise InputError(
                f"block {index} ran {'again' if trace else 'before block 0'}: by itself, twice in "
                "one forward, or in a forward begun inside another; of a compressed model call "
                "the whole, one forward after the other"
            )
        came = trace.counts.get(index - 1) if index else tokens.shape[1]
        if tokens.shape[1] != came:
            raise InputError(
                f"{tokens.shape[1]} tokens entered block {index}, but {came} left the block before "
                "it; this model puts tokens back or skips blocks between them, so it cannot be "
                "compressed"
            )
        engine._recomputed.remember(index, tokens, trace)
        return trace

    def _needs_trace(self, given: Mapping[str, Any]) -> bool:
        """Whether what a block is given depends on which tokens were kept before it."""
        plan, spec = self.engine.plan, self.engine.spec
        if spec.packing:
            return bool(plan.acting)
        if self.index <= min(plan.drop, default=self.index):
            return False
        followed = any(
            carrier.implied or given.get(name) is not None
            for name, carrier in spec.carriers.items()
        )
        weighed = plan.reduction.proportional_attention or plan.adaptive
        protected = spec.inner_tokens or spec.suffix_tokens
        return bool(followed or weighed or protected)

    def _capture_middle(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if (state := self._state()) is None:
            return None
        state.middle = middle = self._stream(args[0])
        check_middle(state)
        if self.engine.plan.before_mlp and state.acts:
            state.decide(middle, self.engine._verify(middle), self.engine._fresh(middle))
        return None if state.step is None else (self._own(state.reduce(middle)), *args[1:])

    def _capture_normed(self, norm: nn.Module, _: tuple[Any, ...], output: Any) -> None:
        state = self._state()
        if state is not None and self.engine._fresh(output):  # later it would only hold memory
            state.normed = (norm, output)

    def _capture_activation(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        if (state := self._state()) is not None:
            state.activation = args[0]

    def _expand(
        self, _: nn.Module, args: tuple[Any, ...], branch: Float[Tensor, "*P K C"]
    ) -> Float[Tensor, "*B N C"] | None:
        # The block adds this branch to the stream of all its tokens. Those that are merged get the
        # same update, so that merging after the addition equals merging before the MLP.
        if (state := self._state()) is None or state.step is None:
            return None
        return self._own(state.expand(self._stream(branch)))

    def _leave(self, trace: ForwardTrace, state: BlockState, output: Any) -> Any:
        index, plan = self.index, self.engine.plan
        tokens = output[0] if isinstance(output, tuple) else output
        if not isinstance(tokens, torch.Tensor):
            kind = type(output).__name__
            raise InputError(f"block {index} must return its tokens [B, N, C]; got {kind}")
        check_exit(state, tokens, self.engine.spec.norm2[index])
        tokens = self._stream(tokens)
        check_attention(self.engine, state)
        check_in_place(state, tokens)
        if state.acts and not plan.before_mlp:
            state.decide(tokens, self.engine._verify(tokens), self.engine._fresh(tokens))
        if state.acts and state.step is None:
            raise InputError(
                f"{plan.reduction} acts between attention and MLP of block {index}, and its norm2 "
                "did not run inside the block; call compress(model, plan) again after a change of "
                "the model's parts"
            )
        reduced = state.reduce(tokens) if state.step else tokens
        if not recomputing():
            if state.watched:
                trace.watched[index] = state.watch(tokens)
            trace.record(index, reduced.shape[1], state)
            if state.scores is not None and plan.reduction.scored:
                trace.scores[index] = state.scores
        if index == len(self.engine.spec.blocks) - 1 and not self.engine.spec.packing:
            reduced = (state.after or state.segments).batch(reduced)
        if reduced is tokens:
            return output
        reduced = self._own(reduced)
        return (reduced, *output[1:]) if isinstance(output, tuple) else reduced

    # A packed stream has no axis of images: inside it is a batch of one.

    def _stream(self, tokens: Tensor) -> Float[Tensor, "P N C"]:
        return tokens[None] if self.engine.spec.packing else tokens

    def _own(self, stream: Float[Tensor, "P N C"]) -> Tensor:
        return stream[0] if self.engine.spec.packing else stream

    def _begun(self, tokens: Float[Tensor, "P N C"]) -> ForwardTrace:
        if not self.engine.spec.packing:
            self.engine.spec.check_length(tokens.shape[1])
            return ForwardTrace(tokens.shape[0], tokens.shape[1], tokens.device)
        layout = getattr(self.engine._local, "layout", None)
        if layout is None or sum(layout.segments.counts) != tokens.shape[1]:
            raise InputError(
                f"{tokens.shape[1]} patches entered block 0, and the grids that the model was "
                "given have another number; call the whole model with the grid of every image"
            )
        frames = layout.segments
        return ForwardTrace(frames.count, frames.longest, tokens.device, layout=layout)
