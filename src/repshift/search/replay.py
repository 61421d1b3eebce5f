"""A forward that starts where an earlier one left off, for plans that begin alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from repshift.compression import Compression
from repshift.runtime.trace import ForwardTrace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from repshift.adapters.spec import EncoderSpec
    from repshift.plan import Plan


@dataclass(frozen=True)
class Recording:
    """What every block of one forward handed to the next, and the call's counts and steps."""

    outputs: list[Any]
    call: ForwardTrace

    def before(self, first: int) -> ForwardTrace:
        """The call as it stood when block ``first`` was about to run."""
        call = self.call
        return ForwardTrace(
            call.batch,
            call.dense,
            call.device,
            {block: count for block, count in call.counts.items() if block < first},
            {block: step for block, step in call.steps.items() if block < first},
            {block: size for block, size in call.sizes.items() if block < first},
            {block: packing for block, packing in call.packings.items() if block < first},
        )


class Replay(Compression):
    """A plan at work from block ``first`` on, whose earlier blocks are those of a recording.

    The blocks before ``first`` do not run: each returns what the last of them returned in the
    recording. Use it in a ``with`` block.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        spec: EncoderSpec,
        first: int = 0,
        recording: Recording | None = None,
    ) -> None:
        super().__init__(model, plan, spec)
        self._first, self._recording = first, recording
        self._outputs: list[Any] = []
        # Behind the hooks of the plan, so that it sees what is left of the tokens.
        for block in spec.blocks[first:]:
            self._handles.append(block.register_forward_hook(self._record))
        self._own = [(block, vars(block).get("forward")) for block in spec.blocks[:first]]
        for block, _ in self._own:
            block.forward = self._skip

    def recorded(self) -> Recording:
        """The last forward, to start others from."""
        return Recording(self._outputs, self._last_call())

    def detach(self) -> None:
        for block, own in self._own:
            del block.forward
            if own is not None:
                block.forward = own
        self._own = []
        super().detach()

    def _skip(self, *_: Any, **__: Any) -> Any:
        assert self._recording is not None
        return self._recording.outputs[self._first - 1]

    def _record(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._outputs.append(output)

    def _start(self, block: int, args: tuple[Any, ...]) -> None:
        earlier = self._recording
        self._outputs = earlier.outputs[: self._first] if earlier else []
        self._call = earlier.before(self._first) if earlier else None

    def _enter(self, block: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        return None if block < self._first else super()._enter(block, args, kwargs)

    def _leave(self, block: int, args: tuple[Any, ...], output: Any) -> Any:
        return None if block < self._first else super()._leave(block, args, output)
