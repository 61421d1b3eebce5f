"""Search for a plan: closed forms first, then tokens exchanged between blocks."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from repshift.errors import InputError
from repshift.input_size import input_in_words
from repshift.plan import Plan
from repshift.schedules import fewest, late, spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from repshift.search.cost_model import CostModel
    from repshift.search.fidelity_meter import FidelityMeter
    from repshift.search.memo import Memo
    from repshift.sequence.amounts import Level

# Told a line about each plan that was tried.
Progress = Callable[[str], object]

# What is worth trying where nothing is known of a model; random tells what the others are worth.
METHODS = (
    "random",
    "shift(mlp, l2)",
    "shift(mlp, l2, update)",
    "redundancy(keys)",
    "redundancy(keys) + merge",
    "redundancy(keys) + merge(proportional, kept)",
    "redundancy(mlp) + merge(proportional, kept)",
    "shift(mlp, l2) + vid-tldr",
    "tome",
)
# An exchange that lowers the loss by a smaller share than this is taken for chance.
WORTH = 0.01
# So many exchanges in a row that lower nothing end the search.
PATIENCE = 24
# The cost at which methods are compared where the target is a fidelity.
MIDDLE = 0.65


@dataclass(frozen=True)
class Trial:
    """A plan that was tried: its share of the dense cost, and how far it is from dense."""

    plan: Plan
    share: float
    loss: float
    fidelity: float


class Search:
    """Plans of one model at one size of its images, with their cost and fidelity.

    ``methods`` are the plans without drops that are tried, ``tried`` those rated on all images.
    """

    def __init__(
        self,
        meter: FidelityMeter,
        cost: CostModel,
        memo: Memo,
        progress: Progress | None = None,
        methods: Sequence[Plan] = (),
    ) -> None:
        self.methods = methods
        self.meter, self.cost, self.memo, self.progress = meter, cost, memo, progress
        self.patches, self.depth = meter.patches, len(meter.spec.blocks)
        self.tried: list[Trial] = []
        self._base = Plan({})  # whose beginning further plans are expected to share

    def improved(self, start: Trial, share: float) -> Trial | None:
        """What exchanges make of a closed form at ``share`` of the dense cost."""
        better = self.settled(self.exchange(start, share).plan, share)
        return better if self.cost.reaches(better.plan, share) else None

    def least_cost(self, fidelity: float) -> Trial:
        """The cheapest plan whose fidelity is at least ``fidelity``; one of no drop if none is."""
        start = self._start_anywhere()
        first = self._cheapest(start.plan, fidelity) if start.plan.drop else start
        if not first.plan.drop:
            return first
        better = self.exchange(first, first.share)
        return min(first, self._cheapest(better.plan, fidelity), key=lambda trial: trial.share)

    def draw_curve(self, plan: Plan, shares: Iterable[float]) -> None:
        """Try the shape of ``plan`` at other costs too, where it reaches them."""
        for share in shares:
            fitted = self.fit(plan, self._shape(plan), share) if plan.drop else None
            if fitted is not None:
                self.rate(fitted)

    def settled(self, plan: Plan, share: float) -> Trial:
        """The same shape with as many tokens as the measured cost asks for."""
        tried = [plan]
        while len(tried) < 4 and not self.cost.meets(tried[-1], share):
            self.cost.correct(tried[-1])
            tried.append(self.fit(plan, self._shape(plan), share) or plan)
        return self.rate(min(tried, key=lambda one: self.cost.misses(one, share)))

    def _start_anywhere(self) -> Trial:
        """The best closed form at ``MIDDLE``, or at the next cost that the model comes down to."""
        *costs, last = MIDDLE, 0.8, 0.9, 1.0
        for share in costs:
            try:
                return self.best_start(share)
            except InputError:  # too few patches, or little of the cost is in the blocks
                continue
        return self.best_start(last)

    def _cheapest(self, plan: Plan, fidelity: float) -> Trial:
        shape = self._shape(plan)

        def trial(leaving: int) -> Trial:
            return self.rate(replace(plan, drop=spread(leaving, shape)))

        most = self.patches - 1
        too_many = fewest(lambda count: trial(count).fidelity < fidelity, most)
        return trial(most if too_many is None else too_many - 1)

    def _shape(self, plan: Plan) -> list[float]:
        return [float(plan.amount(block).value) for block in range(self.depth)]

    def rate(self, plan: Plan, batches: int | None = None) -> Trial:
        """Rate a plan on the first ``batches``; on all of them it counts as tried."""
        some = "" if batches is None else f" on {batches} batches"
        name = f"{plan.identity}{some}"

        def measured() -> tuple[float, float]:
            self.meter.start_from(self._base)
            return self.meter.rate(plan, batches)

        loss, fidelity = self.memo(name, measured)
        trial = Trial(plan, self.cost(plan), loss, fidelity)
        if batches is None and trial not in self.tried:
            self.tried.append(trial)
        if self.progress is not None:
            method = plan.method if plan.acting else "dense"
            size = f" on {words}" if (words := input_in_words(plan)) else ""
            about = f"{method}{size}, loss {loss:.4f} at {trial.share:.3f} of the cost"
            self.progress(about)
        return trial

    def fit(self, method: Plan, shape: Sequence[float], target: float) -> Plan | None:
        """The fewest tokens, spread like ``shape``, that bring the cost down to ``target``.

        None where no number of them does.
        """

        def fitted() -> Plan | None:
            leaving = fewest(
                lambda n: self.cost(replace(method, drop=spread(n, shape))) <= target,
                self.patches - 1,
            )
            return None if leaving is None else replace(method, drop=spread(leaving, shape))

        plan = fitted()
        for _ in range(3 if self.cost.quick else 0):
            if plan is None or self.cost.meets(plan, target):
                break
            self.cost.correct(plan)
            plan = fitted()
        return plan

    def best_start(self, target: float) -> Trial:
        """The best closed form of all methods, found by successive halving.

        All are rated on a quarter of the images, the better quarter of them on all. Where the cost
        is measured, those that do not come down to the target make way for the next.
        """
        ran = [] if self.cost.quick else self._run_once(target)
        fitted = [
            self.fit(method, shape, target)
            for method in self.methods
            for shape in closed_forms(self.depth)
        ]
        plans = list(dict.fromkeys(plan for plan in fitted if plan is not None))
        quarter = max(1, len(self.meter.batches) // 4)
        ranked = sorted(plans, key=lambda plan: self.rate(plan, quarter).loss)
        finalists: list[Trial] = []
        for plan in ranked:
            trial = self.rate(plan) if self.cost.quick else self.settled(plan, target)
            if self.cost.reaches(trial.plan, target):
                finalists.append(trial)
            if len(finalists) == max(2, len(plans) // 4):
                break
        if finalists:
            return min(finalists, key=lambda trial: trial.loss)
        ran += [trial.plan for trial in self.tried]
        if not ran:
            raise InputError(
                f"no schedule brings the cost down to {target:.3g} of the dense model's, even with "
                "one patch left at the end; ask for less"
            )
        raise InputError(
            f"no plan ran at {target:.2f} of the dense model's time on this device at this batch "
            f"size; the fastest that was tried took {min(map(self.cost.measure, ran)):.2f} of it; "
            "ask for less, or try larger batches"
        )

    def _run_once(self, target: float) -> list[Plan]:
        """A plan of every method, run so that its own time is known: all compete at equal time."""
        constant = closed_forms(self.depth)[1]
        fitted = [self.fit(method, constant, target) for method in self.methods]
        plans = [plan for plan in fitted if plan is not None]
        for plan in plans:
            self.cost.correct(plan)
        return plans

    def exchange(self, start: Trial, target: float) -> Trial:
        """Let tokens leave after another block instead, where that lowers the loss.

        Which blocks and how many tokens is drawn, by a fixed seed, until ``PATIENCE`` draws in a
        row bring nothing on half of the images. The blocks before the first of the two need not
        run again.
        """
        half = max(1, len(self.meter.batches) // 2)
        draws, best, vain = random.Random(0), self.rate(start.plan, half), 0
        if self.depth == 2:  # all tokens leave after the one block where that saves something
            return start
        while vain < PATIENCE and best.plan.drop:
            vain += 1
            giver = draws.choice(list(best.plan.drop))
            taker = draws.choice([block for block in range(self.depth - 1) if block != giver])
            step = max(1, self.patches // draws.choice((6, 12, 24, 48)))
            plan = self._exchanged(best.plan, giver, taker, step, target)
            if plan is None:
                continue
            self._base = best.plan
            trial = self.rate(plan, half)
            if trial.loss < (1 - WORTH) * best.loss:
                best, vain = trial, 0
                if self.cost.quick:
                    self.cost.correct(best.plan)
        return best

    def _exchanged(
        self, plan: Plan, giver: int, taker: int, step: int, target: float
    ) -> Plan | None:
        """``step`` more leave after ``taker``, and after ``giver`` no more than are needed."""
        more = self._moved(plan, taker, step)
        given = int(plan.amount(giver).value)
        if more is None or not given:
            return None

        def with_given(count: int) -> Plan:
            return replace(more, drop=_with(more.drop, giver, count))

        for _ in range(2):  # the cost is an estimate, set right once by what really runs
            enough = fewest(lambda count: self.cost(with_given(count)) <= target, given)
            if enough is None or enough == given:
                return None
            exchanged = with_given(enough)
            if not self.cost.quick or self.cost.measure(exchanged) <= target:
                return exchanged
            self.cost.correct(exchanged)
        return None

    def _moved(self, plan: Plan, block: int, step: int) -> Plan | None:
        """``step`` more tokens leave after ``block``; None if there are not so many."""
        count = int(plan.amount(block).value) + step
        moved, left = replace(plan, drop=_with(plan.drop, block, count)), self.patches
        for at in moved.drop:
            amount = int(moved.amount(at).value)
            if amount > min(moved.reduction.most(left), left - 1):
                return None
            left -= amount
        return moved


def closed_forms(depth: int) -> list[list[float]]:
    """Shapes that need no data: the paper's blocks, constant, late, early, every second block.

    Every second begins with the second block, where a merging costs half the steps of a constant
    one. Early is ToMe's decreasing schedule, down to none, which leaves the most tokens to the last
    blocks at a cost that only many dropped ones reach.
    """
    paper = [0.0] * depth
    for part in range(3):
        paper[min(part * depth // 4, depth - 2)] += 0.8**part  # after the last saves nothing
    every_second = [float(block % 2) for block in range(depth - 1)] + [0.0]
    early = [float(depth - 1 - block) for block in range(depth)]
    return [paper, late(depth, 0), late(depth, 1), early] + [every_second] * (depth > 2)


def _with(
    drop: Mapping[int, float | int | Level], block: int, count: int
) -> dict[int, float | int | Level]:
    """The drops with ``count`` at ``block``."""
    others = {at: amount for at, amount in drop.items() if at != block}
    return {**others, block: count} if count else others
