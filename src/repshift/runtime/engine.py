"""What the sites of one compressed encoder share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repshift.runtime.attachment import Attachment
from repshift.runtime.checkpointing import Recomputed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from repshift.adapters.spec import EncoderSpec
    from repshift.plan import Plan
    from repshift.runtime.trace import ForwardTrace
    from repshift.scores import Score


class Engine(Attachment):
    """A plan, the spec of the model it works on, and the trace of this thread's last forward.

    ``watch`` names blocks at which a score is told of all tokens that enter, and left at that.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        spec: EncoderSpec,
        watch: Mapping[int, Score] | None = None,
    ) -> None:
        super().__init__(model)
        self.plan = plan
        self.spec = spec
        self.watch = watch or {}
        self._recomputed = Recomputed()

    @property
    def _trace(self) -> ForwardTrace | None:
        return getattr(self._local, "trace", None)
