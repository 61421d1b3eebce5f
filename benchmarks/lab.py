"""A subject at all sizes of its inputs, and the smaller input that costs what a plan does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor, nn

from repshift import Plan
from repshift.input_size import input_in_words
from repshift.measure.flops import count_flops
from repshift.search.candidates import Search
from repshift.search.cost_model import FlopsCost
from repshift.search.fidelity_meter import FidelityMeter
from repshift.search.sizes import Sized, search_at


@dataclass(frozen=True, eq=False)
class Rival:
    """The dense model on a smaller input: smaller images, fewer frames, shorter texts.

    Where it is ``sized``, tokens may be dropped there too.
    """

    label: str
    model: nn.Module
    given: Callable[[Tensor], Tensor]
    sized: Sized | None = None

    @classmethod
    def of(cls, sized: Sized) -> Rival:
        label = input_in_words(sized.of(Plan({})))
        return cls(label, sized.model, sized.prepare, sized)

    @property
    def plan(self) -> Plan:
        return self.sized.of(Plan({})) if self.sized else Plan({})


class Lab:
    """What is known of plans, for the model's own input or a smaller one, input by input."""

    def __init__(self, subject, batch, dtype, memo):
        self.subject, self.dtype, self.memo = subject, dtype, memo
        model, spec = subject.model.to(dtype), subject.spec
        self.inputs = self.placed(subject.test)
        self.own = Rival.of(Sized(model, spec))
        self.smaller = subject.smaller(self.inputs)
        self.meter = FidelityMeter(model, spec, self.inputs, subject.objective, batch)
        self.full = Search(self.meter, FlopsCost(model, spec, self.inputs[:1], memo), memo)
        self.at = cache(self._at)

    def placed(self, inputs):
        return inputs.to(self.dtype) if inputs.is_floating_point() else inputs

    def _at(self, rival):
        """The search at one size, which fits plans to a budget."""
        return self.full if rival is self.own else search_at(self.full, rival.sized, self.inputs)

    def rival_of(self, plan):
        """The input that a plan is for."""
        size = plan.input_size, plan.frames
        sized = [self.own, *(rival for rival in self.smaller if rival.sized)]
        return next(r for r in sized if (r.plan.input_size, r.plan.frames) == size)

    def share(self, plan):
        """Of the FLOPs of the dense model on its own input."""
        return self.at(self.rival_of(plan)).cost.measure(plan)

    def share_of(self, rival):
        def spent(rival):
            run = partial(rival.model, rival.given(self.inputs[:1]))
            return self.memo(f"FLOPs of dense on {rival.label}", lambda: count_flops(run)[0])

        return spent(rival) / spent(self.own)

    def rated(self, plan):
        """The loss of every input; quality and fidelity."""
        rival = self.rival_of(plan)
        if not plan.acting:
            return self.dense_on(rival)
        return self._known(plan.identity, lambda: self.at(rival).meter.outputs(plan))

    @torch.inference_mode()
    def dense_on(self, rival):
        """The same of the dense model on a smaller input."""

        def outputs():
            batches = (rival.given(batch) for batch in self.meter.batches)
            return torch.cat([rival.model(batch).float() for batch in batches])

        return self._known(f"dense on {rival.label}", outputs)

    def beside(self, share):
        """The two inputs next to a share: what costs more, and what less."""
        every = [self.own, *self.smaller]
        below = next(at for at, rival in enumerate(every) if self.share_of(rival) <= share)
        return every[below - 1], every[below]

    def between(self, share):
        """Where a share is between those two, from 0, as the one that costs more, to 1."""
        more, less = map(self.share_of, self.beside(share))
        return (more - share) / (more - less)

    def rival_at(self, share):
        """The losses of the dense model on a smaller input that costs ``share``: on a line between
        those of the two sizes nearest to it."""
        (more, *_), (less, *_) = map(self.dense_on, self.beside(share))
        return torch.lerp(more, less, self.between(share))

    def _known(self, key, outputs):
        def rate():
            output = outputs()
            losses, (_, fidelity) = self.meter.losses(output), self.meter.compare(output)
            quality = [measure(output) for measure in self.subject.quality.values()]
            return [losses.tolist(), *quality, fidelity]

        losses, *figures = self.memo(f"{key}, image by image", rate)
        return torch.tensor(losses), *figures
