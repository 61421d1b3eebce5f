"""What a plan costs, as a share of the dense model: counted FLOPs, or time on this machine."""

from __future__ import annotations

from bisect import bisect_left
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from repshift.compress import compress
from repshift.measure.flops import count_flops
from repshift.measure.speed import interleave, speedup
from repshift.plan import Plan
from repshift.runtime.attachment import Attachment, ReplacedMethod
from repshift.scores import Random

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping

    from jaxtyping import Float
    from torch import Tensor, nn

    from repshift.adapters.spec import EncoderSpec
    from repshift.search.memo import Memo


class CostModel:
    """The cost of a plan from a table: what a block costs at each number of tokens.

    A forward costs what its blocks cost at the tokens that enter them, a fixed rest, and what a
    method takes where it acts (score, sorting, gathering; less than nothing where it spares the MLP
    tokens), alike at every block: ``correct`` sets that from a plan that really ran. Blocks are
    taken to be alike; the second stands for all. All costs are shares of the dense model's, of
    ``whole`` where ``model`` and ``images`` are of a smaller size than that one's.
    """

    name: ClassVar[str]
    quick: ClassVar[bool]  # whether to ``measure`` costs next to nothing
    tolerance: ClassVar[float]  # the share by which a measured cost may be above what was asked

    def __init__(
        self,
        model: nn.Module,
        spec: EncoderSpec,
        images: Float[Tensor, "B ..."],
        memo: Memo,
        whole: CostModel | None = None,
    ) -> None:
        self.model, self.spec, self.images, self.memo = model, spec, images, memo
        self.whole = whole or self
        frames = f" and {images.shape[1]} frames" if images.ndim == 5 else ""
        at = f" at {images.shape[-1]} pixels{frames}" if whole else ""
        with compress(model, Plan({}), spec) as nothing, torch.inference_mode():
            model(images)
        self.patches = nothing.counts[0] - spec.staying
        counts = sorted({max(1, round(self.patches * part / 8)) for part in range(1, 9)})
        self.counts = counts
        self.table: list[float] = memo(f"{self.name} of a block{at}", lambda: self._blocks(counts))
        self.dense: float = memo(f"{self.name} of the model{at}", lambda: self._run(Plan({}))[1])
        self.rest = self.dense - len(spec.blocks) * self.table[-1]
        self.steps: dict[Plan, float] = {}  # by method: plans without drops

    def __call__(self, plan: Plan) -> float:
        """The expected share of the dense cost."""
        entering = plan.entering(len(self.spec.blocks), self.patches)
        cost = self.rest + sum(map(self._block, entering))
        return cost / self.whole.dense + len(plan.acting) * self.steps.get(_method(plan), 0.0)

    def with_patches(self, patches: int) -> float:
        """The expected share of the dense cost if ``patches`` entered every block."""
        return (self.rest + len(self.spec.blocks) * self._block(patches)) / self.dense

    def measure(self, plan: Plan) -> float:
        """The share of the dense cost in a forward that runs."""
        return self.memo(f"{self.name} of {plan.identity}", lambda: self._run(plan)[0])

    def correct(self, plan: Plan) -> None:
        """Expect of this method's plans what was measured at ``plan``."""
        if acting := len(plan.acting):
            missing = (self.measure(plan) - self(plan)) / acting
            self.steps[_method(plan)] = self.steps.get(_method(plan), 0.0) + missing

    def meets(self, plan: Plan, share: float) -> bool:
        """Whether the measured share is what was asked for."""
        raise NotImplementedError

    def reaches(self, plan: Plan, share: float) -> bool:
        """Whether the cost is as low as asked."""
        raise NotImplementedError

    def misses(self, plan: Plan, share: float) -> tuple[bool, float]:
        """How the measured share misses what was asked: whether it is too much, and by how much."""
        measured = self.measure(plan)
        return measured > share * (1 + self.tolerance), abs(measured - share)

    def _block(self, patches: int) -> float:
        """What a block costs, between the two nearest counts of the table."""
        if len(self.counts) == 1:  # of one patch
            return self.table[0]
        above = min(max(bisect_left(self.counts, patches), 1), len(self.counts) - 1)
        low, high = self.counts[above - 1], self.counts[above]
        part = (patches - low) / (high - low)
        return self.table[above - 1] * (1 - part) + self.table[above] * part

    def _blocks(self, counts: list[int]) -> list[float]:
        inputs = {count: self._input(count) for count in counts}
        block = self.spec.blocks[1]

        def run(count: int) -> object:
            args, kwargs = inputs[count]
            return block(*args, **kwargs)

        return self._each(counts, run)

    def _input(self, patches: int) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """What the second block gets when ``patches`` are left, positions and masks included."""
        given = []

        def run(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            given.append((args, kwargs))
            return forward(*args, **kwargs)

        # Attached first, so that it is given what the compressed block hands its own forward.
        recorder = ReplacedMethod(Attachment(self.model), self.spec.blocks[1], "forward", run)
        try:
            plan = Plan({0: self.patches - patches}, Random())
            with compress(self.model, plan, self.spec), torch.inference_mode():
                self.model(self.images)
        finally:
            recorder.remove()
        return given[0]

    def _each(self, counts: list[int], run: Callable[[int], object]) -> list[float]:
        """The cost of ``run`` at each count."""
        raise NotImplementedError

    def _run(self, plan: Plan) -> tuple[float, float]:
        """The plan's share of the dense cost, and the dense cost."""
        raise NotImplementedError


class FlopsCost(CostModel):
    """Multiply-adds of everything that runs, scores and matching included."""

    name: ClassVar[str] = "FLOPs"
    quick: ClassVar[bool] = True
    tolerance: ClassVar[float] = 0.0

    def meets(self, plan: Plan, share: float) -> bool:
        """At most the share asked for, and less by no more than about a token."""
        return share - 1.5 / self.patches <= self.measure(plan) <= share

    def reaches(self, plan: Plan, share: float) -> bool:
        """Always: what is counted is low enough by the fit."""
        return True

    def mean(self, plan: Plan, batches: Iterable[Tensor]) -> float:
        """The share over many images, for a plan by which every image costs something else."""
        cost, images = 0.0, 0
        with compress(self.model, plan, self.spec):
            for batch in batches:
                cost += count_flops(lambda batch=batch: self.model(batch))[0]
                images += len(batch)
        return cost / images / (self.whole.dense / len(self.images))

    def _each(self, counts: list[int], run: Callable[[int], object]) -> list[float]:
        return [count_flops(lambda count=count: run(count))[0] for count in counts]

    def _run(self, plan: Plan) -> tuple[float, float]:
        with compress(self.model, plan, self.spec):
            cost = count_flops(lambda: self.model(self.images))[0]
        dense = self.whole.dense if plan.drop or self.whole is not self else cost
        return cost / dense, cost


class TimeCost(CostModel):
    """Time of a forward on this device, at this batch size, on torch's current threads."""

    name: ClassVar[str] = "seconds"
    quick: ClassVar[bool] = False
    rounds: ClassVar[int] = 5
    tolerance: ClassVar[float] = 0.03

    def meets(self, plan: Plan, share: float) -> bool:
        """Within 3 % of the share asked for."""
        return abs(self.measure(plan) / share - 1) <= self.tolerance

    def reaches(self, plan: Plan, share: float) -> bool:
        """At most 3 % more than the share asked for."""
        return not self.misses(plan, share)[0]

    def _each(self, counts: list[int], run: Callable[[int], object]) -> list[float]:
        at = counts[0]

        @contextmanager
        def entering(count: int) -> Generator[None]:
            nonlocal at
            at = count
            yield

        ways = {str(count): lambda count=count: entering(count) for count in counts}
        times = interleave(ways, lambda: run(at), rounds=self.rounds, seconds=0.02)
        return [median(times[str(count)]) for count in counts]

    def _run(self, plan: Plan) -> tuple[float, float]:
        ways = {"plan": lambda: compress(self.model, plan, self.spec), "dense": nullcontext}
        whole = self.whole
        runs = {
            "plan": lambda: self.model(self.images),
            "dense": lambda: whole.model(whole.images),
        }
        times = interleave(ways, runs, rounds=self.rounds, seconds=0.05)
        share = speedup(times["dense"], over=times["plan"])
        return share, median(times["plan"])


def _method(plan: Plan) -> Plan:
    """What plans of one score and one reduction share."""
    return replace(plan, drop={})
