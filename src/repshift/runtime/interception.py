"""Whether a block's attention must be intercepted, and whether it then was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repshift.errors import InputError
from repshift.runtime.attention import AttentionRecorder
from repshift.runtime.attention_runs import RunRecorder
from repshift.runtime.checkpointing import replays

if TYPE_CHECKING:
    from torch import nn

    from repshift.runtime.block_state import BlockState
    from repshift.runtime.engine import Engine


def recorder_of(engine: Engine, block: nn.Module, state: BlockState) -> AttentionRecorder | None:
    """What intercepts the block's attention, if anything must."""
    plan, packing = engine.plan, engine.spec.packing
    needs = state.needs & {"attention", "keys"}
    size = state.size if plan.reduction.proportional_attention else None
    # A packed tower keeps its frames apart itself.
    intercepts = needs or size is not None or (state.segments.packed and not packing)
    if (intercepts or (state.acts and plan.before_mlp)) and replays(block):
        raise InputError(
            "gradient checkpointing of transformers runs a block again without repshift, so "
            f"{plan.method} would not act there; train with a score that reads no attention, "
            "prune and shares or counts, or without gradient checkpointing"
        )
    asked = state.acts and plan.reduction.reorders  # whether the attention is causal
    if not intercepts and not asked:
        return None
    size = None if size is None else state.segments.stream(size)
    kind = RunRecorder if packing else AttentionRecorder
    return kind(needs, size, state.segments, engine._local)


def check_attention(engine: Engine, state: BlockState) -> None:
    """Whether the block's attention passed where sizes and lengths act on it."""
    recorder, packing = state.recorder, engine.spec.packing
    if recorder is None or (recorder.complete if packing else recorder.calls):
        return
    if recorder.size is not None:
        raise InputError(
            f"{engine.plan.reduction} weighs the keys of block {state.block} by their "
            "size, but the block did not call scaled_dot_product_attention; load a Hugging "
            'Face model with attn_implementation="sdpa", or merge with attention="plain"'
        )
    if state.segments.packed and not packing:
        raise InputError(
            f"with a level the images of a batch meet in block {state.block}, which did not call "
            "scaled_dot_product_attention, where they are kept apart; load a Hugging Face "
            'model with attn_implementation="sdpa", or use shares or counts'
        )
