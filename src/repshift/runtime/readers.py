"""What reads all tokens after the last block, such as a pooling by attention."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from repshift.runtime.arguments import bind, gather_arguments, parameters_of, rebind
from repshift.runtime.attachment import ReplacedForward
from repshift.runtime.attention import AttentionRecorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import nn

    from repshift.runtime.carriers import Carrier
    from repshift.runtime.engine import Engine


class Reader:
    """A module whose further arguments follow the kept tokens.

    Where it attends to them, merged ones count by their size, as they do in the blocks (ToMe,
    arXiv 2210.09461, eq. 1): a pooling by attention then weighs them as a mean does.
    """

    def __init__(self, engine: Engine, reader: nn.Module, carriers: Mapping[str, Carrier]) -> None:
        self.engine, self.reader, self.carriers = engine, reader, carriers
        self.parameters = parameters_of(reader)

    def attach(self) -> Iterator[ReplacedForward]:
        """Take the place of the module's forward."""
        yield ReplacedForward(self.engine, self.reader, self.run)

    def run(
        self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """The module's forward with the arguments of the kept tokens."""
        trace, last = self.engine._trace, len(self.engine.spec.blocks) - 1
        if trace is None or last not in trace.counts:  # called by itself
            return forward(*args, **kwargs)
        given = bind(self.parameters, args, kwargs)
        gathered = gather_arguments(trace, last + 1, given, self.carriers)
        args, kwargs = rebind(self.parameters, args, kwargs, gathered)
        weighs = self.engine.plan.reduction.proportional_attention
        size = trace.size_after(last) if weighs else None
        recorder = size is not None and AttentionRecorder((), size, trace.segments_after(last))
        with recorder or nullcontext():
            return forward(*args, **kwargs)
