"""What a plan costs, as a share of the dense model: counted FLOPs, or time on this machine."""

from __future__ import annotations

from bisect import bisect_left
from contextlib import contextmanager, nullcontext
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from repshift.compress import compress
from repshift.measure.flops import count_flops
from repshift.measure.speed import interleave
from repshift.plan import Plan
from repshift.schedules import late, spread
from repshift.scores import Random

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float
    from torch import Tensor, nn

    from repshift.adapters.spec import EncoderSpec
    from repshift.calibration.memo import Memo

ROUNDS = 5


class Flops:
    """Multiply-adds of everything that runs, scores and matching included."""

    def __init__(
        self, model: nn.Module, spec: EncoderSpec, images: Float[Tensor, "N C H W"], memo: Memo
    ) -> None:
        self.model, self.spec, self.image, self.memo = model, spec, images[:1], memo
        self.dense = self._count(Plan({}))

    def __call__(self, plan: Plan) -> float:
        """The share of the dense FLOPs."""
        return self._count(plan) / self.dense

    def _count(self, plan: Plan) -> float:
        def count() -> float:
            with compress(self.model, plan, self.spec):
                return count_flops(lambda: self.model(self.image))[0]

        return self.memo(f"FLOPs of {plan.method} at {plan.schedule}", count)


class Seconds:
    """Time of a forward on this machine, from a table of block times by token count.

    A forward takes ``fixed`` seconds, the time of each of its blocks at the tokens that enter it,
    and a time for every step that depends on the method (the score, the sorting, the gathering).
    All are measured once, on torch's current threads.
    """

    def __init__(
        self, model: nn.Module, spec: EncoderSpec, images: Float[Tensor, "N C H W"], memo: Memo
    ) -> None:
        self.model, self.spec, self.images, self.memo = model, spec, images, memo
        with compress(model, Plan({}), spec) as nothing, torch.inference_mode():
            model(images)
        self.outside = spec.prefix_tokens + spec.suffix_tokens
        self.patches = nothing.counts[0] - self.outside
        self.depth = len(spec.blocks)
        self.table = memo("seconds of a block", self._time_blocks)
        self.dense = memo("seconds of the dense model", lambda: self._time(Plan({}))[1])
        self.fixed = self.dense - self.depth * self._block(self.patches)
        self.scale = 1.0

    def __call__(self, plan: Plan) -> float:
        """The predicted share of the dense model's time."""
        base, steps = self._without_steps(plan), sum(map(bool, plan.drop.values()))
        step = self.memo(f"seconds of a step of {plan.method}", lambda: self._time_step(plan))
        return (base + steps * step) * self.scale / self.dense

    def measure(self, plan: Plan) -> float:
        """The measured share, in turn with the dense model."""
        name = f"measured share of {plan.method} at {plan.schedule}"
        return self.memo(name, lambda: self._time(plan)[0])

    def correct(self, plan: Plan) -> None:
        """Scale the predictions so that they agree with the measured share of ``plan``."""
        self.scale *= self.measure(plan) / self(plan)

    def _without_steps(self, plan: Plan) -> float:
        counts = plan.entering(self.depth, self.patches)
        return self.fixed + sum(map(self._block, counts))

    def _block(self, patches: int) -> float:
        """Seconds of a block, between the two nearest counts of the table."""
        counts, seconds = self.table["patches"], self.table["seconds"]
        above = min(max(bisect_left(counts, patches), 1), len(counts) - 1)
        low, high = counts[above - 1], counts[above]
        share = (patches - low) / (high - low)
        return seconds[above - 1] * (1 - share) + seconds[above] * share

    def _time_blocks(self) -> dict[str, list[Any]]:
        counts = sorted({max(1, round(self.patches * part / 8)) for part in range(1, 9)})
        inputs: dict[int, tuple[Any, Any]] = {}
        block = self.spec.blocks[1]
        for count in counts:
            # What the plan hands to the second block, positions and masks included.
            with compress(self.model, Plan({0: self.patches - count}, Random()), self.spec):
                seen = block.register_forward_pre_hook(
                    lambda _, args, kwargs, count=count: inputs.update({count: (args, kwargs)}),
                    with_kwargs=True,
                )
                with torch.inference_mode():
                    self.model(self.images)
                seen.remove()
        at = counts[0]

        @contextmanager
        def entering(count: int) -> Iterator[None]:
            nonlocal at
            at = count
            yield

        times = interleave(
            {str(count): lambda count=count: entering(count) for count in counts},
            lambda: block(*inputs[at][0], **inputs[at][1]),
            rounds=ROUNDS,
            seconds=0.05,
        )
        return {"patches": counts, "seconds": [median(times[str(count)]) for count in counts]}

    def _time_step(self, plan: Plan) -> float:
        """One step of the plan's method, from a forward that makes one in all blocks but one."""
        drop = spread(self.patches // 2, late(self.depth, 0))
        tried = Plan(drop, plan.score, plan.reduction)
        return (self._time(tried)[0] * self.dense - self._without_steps(tried)) / len(drop)

    def _time(self, plan: Plan) -> tuple[float, float]:
        """The plan's share of the dense model's time, and the seconds of that, in turn."""
        times = interleave(
            {"plan": lambda: compress(self.model, plan, self.spec), "dense": nullcontext},
            lambda: self.model(self.images),
            rounds=ROUNDS,
            seconds=0.1,
        )
        pairs = zip(times["plan"], times["dense"], strict=True)
        return median(ours / dense for ours, dense in pairs), median(times["dense"])
