"""A subject at all sizes of its images, and the smaller input that costs what a plan does."""

from functools import cache

import torch

from repshift import Plan
from repshift.search.candidates import Search
from repshift.search.cost_model import FlopsCost
from repshift.search.fidelity_meter import FidelityMeter
from repshift.search.sizes import smaller_sizes


class Lab:
    """What is known of plans, with an ``input_size`` or without, image by image."""

    def __init__(self, subject, batch, dtype, memo):
        self.subject, self.model, self.memo = subject, subject.model.to(dtype), memo
        images = subject.test
        self.images = images.to(dtype) if images.is_floating_point() else images
        self.batch = batch
        self.dense = FidelityMeter(self.model, subject.spec, self.images, subject.objective, batch)
        self.sizes = {one.side: one for one in smaller_sizes(self.model, self.images)}
        self.cost, self.at = cache(self._cost), cache(self._at)

    def _cost(self, side):
        if side is None:
            return FlopsCost(self.model, self.subject.spec, self.images[:1], self.memo)
        return self.sizes[side].cost(self.cost(None))

    def _at(self, side):
        """The search at one size, which fits plans to a budget."""
        meter = self.dense
        if side is not None:
            meter = self.sizes[side].meter(self.images, self.dense, self.batch)
        return Search(meter, self.cost(side), self.memo)

    def share(self, plan):
        """Of the FLOPs of the dense model at full size."""
        return self.cost(plan.input_size).measure(plan)

    def losses(self, plan):
        """The loss of every image."""
        return self._rated(plan)[0]

    def figures(self, plan):
        """Quality and fidelity."""
        return self._rated(plan)[1:]

    def rival_at(self, share):
        """The losses of the dense model on a smaller input that costs ``share``.

        On a line between those of the two sizes nearest to it.
        """
        plans = [Plan({}), *(Plan({}, input_size=side) for side in self.sizes)]
        below = next(at for at, plan in enumerate(plans) if self.share(plan) <= share)
        above, under = (self.share(plan) for plan in plans[below - 1 : below + 1])
        less, more = (self.losses(plan) for plan in plans[below - 1 : below + 1])
        return less + (more - less) * (above - share) / (above - under)

    def _rated(self, plan):
        def rate():
            output = self._dense(plan.input_size) if not plan.acting else self._compressed(plan)
            losses, (_, fidelity) = self.dense.losses(output), self.dense.compare(output)
            return [losses.tolist(), self.subject.quality(output, plan), fidelity]

        losses, *figures = self.memo(f"{plan.identity}, image by image", rate)
        return torch.tensor(losses), *figures

    def _compressed(self, plan):
        return self.at(plan.input_size).meter.outputs(plan)

    @torch.inference_mode()
    def _dense(self, side):
        if side is None:
            return self.dense.own
        sized = self.sizes[side]
        batches = (sized.prepare(batch) for batch in self.dense.batches)
        return torch.cat([sized.model(batch).float() for batch in batches])
