"""The search over tower, prompt and decoder: all fitted to one cost, the best by halving."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from repshift.errors import InputError
from repshift.schedules import fewest
from repshift.search.places import drops_more, keeping, without_lever
from repshift.vision_language.plan import VisionLanguagePlan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from repshift.search.candidates import Progress
    from repshift.search.memo import Memo
    from repshift.search.prompt_meter import PromptMeter

    Cost = Callable[[VisionLanguagePlan], float]

FEWEST = 8  # prompts that all candidates are judged on
FINALISTS = 4  # that are judged on all prompts, at least
STEPS = 40  # equal steps of the cost, of which some are tried where the target is a fidelity


@dataclass(frozen=True)
class PromptTrial:
    """A plan that was tried: its share of the dense cost, and how far it is from dense."""

    plan: VisionLanguagePlan
    share: float
    loss: float
    fidelity: float


class PlaceSearch:
    """Plans of one model, with their cost and fidelity; ``tried`` are those rated on all prompts.

    ``tokens`` is how many the largest image (or frame) of the first prompt has; ``seconds`` is
    given where time is the target.
    """

    def __init__(
        self,
        table: Sequence[VisionLanguagePlan],
        tokens: int,
        meter: PromptMeter,
        flops: Cost,
        memo: Memo,
        seconds: Cost | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.table, self.tokens, self.meter, self.memo = table, tokens, meter, memo
        self.flops, self.seconds, self.progress = flops, seconds, progress
        self.tried: dict[VisionLanguagePlan, PromptTrial] = {}
        self._refused: list[InputError] = []
        self._taken = False  # whether the model takes a plan that drops something
        every = len(meter.prompts)
        self._rungs = sorted({min(every, max(FEWEST, every // part)) for part in (16, 4, 1)})

    def at_cost(self, share: float) -> list[PromptTrial]:
        """The best plans at ``share`` of the dense cost, best first, by successive halving.

        All are judged on few prompts, the best quarter on four times as many. Of the time, those
        that do not come down to the target make way for the next.
        """
        fitted: dict[VisionLanguagePlan, VisionLanguagePlan] = {}
        for one in self.table:
            # Where less is enough, more is not tried; of the time, less may not be.
            known = () if self.seconds is not None else fitted.values()
            if any(plan.prompt is None and drops_more(one, plan) for plan in known):
                continue
            self._tell(f"fitting to {share:.3g} of the FLOPs: {one}")
            if (plan := self.fit(one, share, self.flops)) is not None:
                fitted[one] = plan
        few, *more = self._rungs
        ranked = self._ranked(fitted.values(), few)
        if self.seconds is not None:
            shapes = [one for plan in ranked for one in fitted if fitted[one] == plan]
            ranked = self._in_time(shapes, share)
        for count in more:
            ranked = self._ranked(ranked[: max(FINALISTS, len(ranked) // 4)], count)
        trials = [trial for trial in map(self.rate, ranked) if trial.loss < math.inf]
        if not trials:
            raise self._unreached(share)
        return sorted(trials, key=lambda trial: trial.loss)

    def least_cost(self, fidelity: float) -> PromptTrial:
        """The cheapest plan whose fidelity is at least ``fidelity``; the dense model if none is."""

        def too_cheap(step: int) -> bool:
            try:
                trials = self.at_cost(1 - step / STEPS)
            except InputError:  # nothing costs as little
                return True
            return all(trial.fidelity < fidelity for trial in trials)

        fewest(lambda step: step > 0 and too_cheap(step), STEPS - 1)
        if self._refused and not self._taken:
            raise self._refused[0]
        self.rate(VisionLanguagePlan())
        good = [trial for trial in self.tried.values() if trial.fidelity >= fidelity]
        return min(good, key=lambda trial: trial.share)

    def fit(self, plan: VisionLanguagePlan, share: float, cost: Cost) -> VisionLanguagePlan | None:
        """The plan with as much of the prompt, or the tower, as ``share`` of the dense cost allows.

        None if no number of tokens does, or the model refuses the plan.
        """
        try:
            bare = without_lever(plan)
            most = cost(bare)
            if most <= share:
                return bare
            few = bare if plan == bare else keeping(plan, 1, self.tokens)
            least = cost(few)
            if least > share:
                self._taken = self._taken or few != VisionLanguagePlan()
                return None
            low, high = 1, self.tokens
            while high - low > 1:
                # Nearly a straight line, so that few costs are asked for.
                guess = low + int((high - low) * (share - least) / (most - least))
                middle = min(max(guess, low + 1), high - 1)
                found = cost(keeping(plan, middle, self.tokens))
                if found <= share:
                    low, least = middle, found
                else:
                    high, most = middle, found
            return keeping(plan, low, self.tokens)
        except InputError as refused:
            self._refused.append(refused)
            return None

    def rate(self, plan: VisionLanguagePlan) -> PromptTrial:
        """Rate a plan on all prompts."""
        if plan not in self.tried:
            loss, fidelity = self._judge(plan, self._rungs[-1])
            share = (self.seconds or self.flops)(plan)
            self.tried[plan] = PromptTrial(plan, share, loss, fidelity)
        return self.tried[plan]

    def _judge(self, plan: VisionLanguagePlan, count: int) -> tuple[float, float]:
        """Loss and fidelity on the first ``count`` prompts; infinity if one of them is refused."""
        losses, same, start = [], [], 0
        for stop in self._rungs[: self._rungs.index(count) + 1]:
            name = f"{plan.identity} on prompts {start} to {stop}"
            try:
                part = self.memo(name, lambda a=start, b=stop: self.meter.compare(plan, a, b))
            except InputError as refused:
                self._refused.append(refused)
                return math.inf, 0.0
            self._taken = self._taken or plan != VisionLanguagePlan()
            losses, same, start = [*losses, *part[0]], [*same, *part[1]], stop
        return fmean(losses), fmean(same)

    def _ranked(self, plans: Iterable[VisionLanguagePlan], count: int) -> list[VisionLanguagePlan]:
        """Each once, the least loss first, without those that the model refuses."""
        losses: dict[VisionLanguagePlan, float] = {}
        for plan in plans:
            if plan not in losses:
                losses[plan] = self._judge(plan, count)[0]
                self._tell(f"KL {losses[plan]:.4f} on {count} prompts: {plan}")
        return sorted((plan for plan in losses if losses[plan] < math.inf), key=losses.__getitem__)

    def _in_time(
        self, shapes: Sequence[VisionLanguagePlan], share: float
    ) -> list[VisionLanguagePlan]:
        """The first of them that come down to the target, fitted to it."""
        assert self.seconds is not None
        found: dict[VisionLanguagePlan, None] = {}
        for shape in shapes:
            plan = self.fit(shape, share, self.seconds)
            if plan is not None:
                found[plan] = None
            if len(found) == max(FINALISTS, len(shapes) // 4):
                break
        return list(found)

    def _tell(self, line: str) -> None:
        if self.progress is not None:
            self.progress(line)

    def _unreached(self, share: float) -> InputError:
        if self._refused and not self._taken:
            return self._refused[0]
        what = "time to the first word" if self.seconds is not None else "FLOPs of a prompt"
        return InputError(
            f"no plan brings the {what} down to {share:.3g} of the dense model's, even with one "
            "token of each image left; ask for less"
        )
