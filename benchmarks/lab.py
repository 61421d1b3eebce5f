"""A subject at all sizes of its inputs, and the smaller input that costs what a plan does."""

from functools import cache

import torch

from repshift import Plan
from repshift.search.candidates import Search
from repshift.search.cost_model import FlopsCost
from repshift.search.fidelity_meter import FidelityMeter
from rivals import flops, rivals


class Lab:
    """What is known of plans, for a smaller input or for that of the model, input by input."""

    def __init__(self, subject, batch, dtype, memo):
        self.subject, self.model, self.memo = subject, subject.model.to(dtype), memo
        self.dtype = dtype
        self.inputs = self.placed(subject.test)
        self.batch = batch
        self.dense = FidelityMeter(self.model, subject.spec, self.inputs, subject.objective, batch)
        self.rivals = rivals(subject, self.inputs)
        self.sized = [rival for rival in self.rivals if rival.spec]  # tokens may be dropped there
        self.cost, self.at = cache(self._cost), cache(self._at)

    def placed(self, inputs):
        return inputs.to(self.dtype) if inputs.is_floating_point() else inputs

    def rival_of(self, plan):
        """The smaller input that a plan is for; None where it is the model's own."""
        size = plan.input_size, plan.frames
        return next((r for r in self.sized if (r.plan.input_size, r.plan.frames) == size), None)

    def _cost(self, rival):
        one = self.inputs[:1]
        if rival is None:
            return FlopsCost(self.model, self.subject.spec, one, self.memo)
        return FlopsCost(rival.model, rival.spec, rival.given(one), self.memo, self.cost(None))

    def _at(self, rival):
        """The search at one size, which fits plans to a budget."""
        meter = self.dense
        if rival is not None:
            meter = FidelityMeter(
                rival.model, rival.spec, rival.given(self.inputs), self.subject.objective,
                self.batch, self.dense.dense,
            )  # fmt: skip
        return Search(meter, self.cost(rival), self.memo)

    def share(self, plan):
        """Of the FLOPs of the dense model on its own input."""
        return self.cost(self.rival_of(plan)).measure(plan)

    def share_of(self, rival):
        return flops(rival, self.inputs, self.memo) / self.cost(None).dense

    def rated(self, plan):
        """The loss of every input; quality and fidelity."""
        rival = self.rival_of(plan)
        if rival is not None and not plan.acting:
            return self.dense_on(rival)
        return self._known(plan.identity, plan, lambda: self.at(rival).meter.outputs(plan))

    @torch.inference_mode()
    def dense_on(self, rival):
        """The same of the dense model on a smaller input."""

        def outputs():
            batches = (rival.given(batch) for batch in self.dense.batches)
            return torch.cat([rival.model(batch).float() for batch in batches])

        return self._known(rival.key, rival.plan, outputs)

    def beside(self, share):
        """The two smaller inputs next to a share: what costs more (None: the own), what less."""
        below = next(at for at, rival in enumerate(self.rivals) if self.share_of(rival) <= share)
        return self.rivals[below - 1] if below else None, self.rivals[below]

    def rival_at(self, share):
        """The losses of the dense model on a smaller input that costs ``share``.

        On a line between those of the two sizes nearest to it.
        """
        above, below = self.beside(share)
        more = self.rated(Plan({})) if above is None else self.dense_on(above)
        less = self.dense_on(below)
        top = 1.0 if above is None else self.share_of(above)
        part = (top - share) / (top - self.share_of(below))
        return more[0] + (less[0] - more[0]) * part

    def _known(self, key, plan, outputs):
        def rate():
            output = outputs()
            losses, (_, fidelity) = self.dense.losses(output), self.dense.compare(output)
            return [losses.tolist(), self.subject.quality(output, plan), fidelity]

        losses, *figures = self.memo(f"{key}, image by image", rate)
        return torch.tensor(losses), *figures
