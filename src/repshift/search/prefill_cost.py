"""What a prompt costs up to its next word, tower included, as a share of the dense model's."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

from repshift.compress import compress
from repshift.measure.flops import count_flops
from repshift.measure.speed import interleave, speedup
from repshift.search.prompt_meter import next_word
from repshift.vision_language.plan import VisionLanguagePlan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from repshift.search.memo import Memo


class PrefillCost:
    """The cost of a plan on one prompt."""

    name: ClassVar[str]

    def __init__(self, model: nn.Module, prompt: Mapping[str, Any], memo: Memo) -> None:
        self.model, self.prompt, self.memo = model, prompt, memo

    def __call__(self, plan: VisionLanguagePlan) -> float:
        """The share of the dense cost in a forward that runs."""
        return self.memo(f"{self.name} of {plan.identity}", lambda: self._share(plan))

    def _share(self, plan: VisionLanguagePlan) -> float:
        raise NotImplementedError

    def _run(self) -> object:
        return next_word(self.model, self.prompt)


class PrefillFlops(PrefillCost):
    """Multiply-adds of everything that runs, scores and matching included."""

    name: ClassVar[str] = "FLOPs"

    def _share(self, plan: VisionLanguagePlan) -> float:
        dense = self.memo("FLOPs of the model", lambda: count_flops(self._run)[0])
        with compress(self.model, plan):
            return count_flops(self._run)[0] / dense


class PrefillTime(PrefillCost):
    """Time to the first word on this device, beside the dense model's in every round."""

    name: ClassVar[str] = "seconds"
    rounds: ClassVar[int] = 5

    def _share(self, plan: VisionLanguagePlan) -> float:
        ways = {"plan": lambda: compress(self.model, plan), "dense": nullcontext}
        device = self.prompt["input_ids"].device
        times = interleave(ways, self._run, device=device, rounds=self.rounds, seconds=0.05)
        return speedup(times["dense"], over=times["plan"])
