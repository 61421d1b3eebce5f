"""What the sites of one compressed vision-language model share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repshift.runtime.attachment import Attachment

if TYPE_CHECKING:
    from torch import Tensor, nn

    from repshift.scores import Score, Snapshots
    from repshift.vision_language.call import Call
    from repshift.vision_language.decision import Decision
    from repshift.vision_language.families import Parts
    from repshift.vision_language.plan import VisionLanguagePlan
    from repshift.vision_language.record import Record
    from repshift.vision_language.tower import Tower


class VisionLanguageEngine(Attachment):
    """A plan, the parts of the model it works on, and what runs in this thread."""

    def __init__(self, model: nn.Module, plan: VisionLanguagePlan, parts: Parts) -> None:
        super().__init__(model)
        self.plan = plan
        self.parts = parts
        self.tower: Tower | None = None

    @property
    def _call(self) -> Call | None:
        return getattr(self._local, "call", None)

    @property
    def _decision(self) -> Decision | None:
        return getattr(self._local, "decision", None)

    @property
    def _record(self) -> Record | None:
        return getattr(self._local, "record", None)

    def check(self, scores: Tensor, snapshot: Snapshots, score: Score, where: str) -> None:
        """Whether scores are finite; on a GPU only the first prompt waits for the answer."""
        if self._verify(scores):
            snapshot.check(scores, f"the score {score}", f" {where}")
        self._verified = True
