"""A forward that starts where an earlier one left off, for plans that begin alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from repshift.compression import Compression
from repshift.runtime.attachment import ReplacedForward

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn
    from torch.utils.hooks import RemovableHandle

    from repshift.adapters.spec import EncoderSpec
    from repshift.plan import Plan
    from repshift.runtime.attachment import ReplacedMethod
    from repshift.runtime.sites import BlockSite
    from repshift.runtime.trace import ForwardTrace


@dataclass(frozen=True)
class Recording:
    """What every block of one forward handed to the next, and the forward's trace."""

    outputs: list[Any]
    trace: ForwardTrace


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
        self._first, self._recording = first, recording
        self._outputs: list[Any] = []
        super().__init__(model, plan, spec)

    def recorded(self) -> Recording:
        """The last forward, to start others from."""
        return Recording(self._outputs, self._last_trace())

    def _parts(self, model: nn.Module) -> Iterator[RemovableHandle | ReplacedMethod]:
        yield from super()._parts(model)
        for block in self.spec.blocks[: self._first]:
            yield ReplacedForward(self, block, self._skip)
        # The sites drop tokens inside the forward, so that these see what is left of them.
        for block in self.spec.blocks[self._first :]:
            yield block.register_forward_hook(self._record)

    def _sites(self) -> list[BlockSite]:
        return super()._sites()[self._first :]

    def _start(self, _: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        super()._start(_, args, kwargs)
        earlier = self._recording
        self._outputs = earlier.outputs[: self._first] if earlier else []
        if earlier:
            self._local.trace = earlier.trace.until(self._first)

    def _skip(self, *_: Any) -> Any:
        assert self._recording is not None
        return self._recording.outputs[self._first - 1]

    def _record(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._outputs.append(output)
