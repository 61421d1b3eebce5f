"""How far a plan moves a model's outputs from those of the dense model, on a set of images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch

from repshift.errors import InputError
from repshift.measure.fidelity import (
    cosine_by_image,
    feature_fidelity,
    kl_by_image,
    logit_fidelity,
)
from repshift.method import check_choice
from repshift.numbers import whole
from repshift.plan import Plan
from repshift.search.replay import Recording, Replay

if TYPE_CHECKING:
    from typing import Any

    from jaxtyping import Float
    from torch import Tensor, nn

    from repshift.adapters.spec import EncoderSpec

Objective = Literal["kl", "cosine"]


class FidelityMeter:
    """The dense model as teacher of plans; no gradient, no labels.

    ``loss`` is the mean KL(dense || compressed) of the logits in nats, or 1 - cosine of the
    features. Plans that begin like ``base`` share its forward up to the first block where they
    differ. ``teacher`` are the dense outputs if ``model`` and ``images`` are of another size than
    those of the teacher.
    """

    def __init__(
        self,
        model: nn.Module,
        spec: EncoderSpec,
        images: Float[Tensor, "N ..."],
        objective: Objective,
        batch_size: int,
        teacher: Float[Tensor, "N K"] | None = None,
    ) -> None:
        check_choice("objective", objective, Objective)
        self.model, self.spec, self.objective = model, spec, objective
        self.batches = list(images.split(whole(batch_size, "batch_size", 1)))
        self.base = Plan({})
        self.recordings: list[Recording | None] = [None] * len(self.batches)
        self.own = self.outputs(self.base, keep=True)  # of the dense model at this size
        self.dense = self.own if teacher is None else teacher
        first = self.recordings[0]
        assert first is not None
        self.patches = first.trace.counts[0] - spec.staying
        if not self.dense.isfinite().all():
            raise InputError("the dense model gives NaN or infinity on the images to search on")
        if model.training:
            check_same(self.outputs(self.base, 1), self.own[: len(self.batches[0])])

    def rate(self, plan: Plan, batches: int | None = None) -> tuple[float, float]:
        """Loss and fidelity (top-1 agreement, or feature cosine) on the first ``batches``."""
        return self.compare(self.outputs(plan, batches))

    def compare(self, output: Float[Tensor, "N K"]) -> tuple[float, float]:
        """Loss and fidelity of outputs for the first images."""
        dense = self.dense[: len(output)]
        compared = logit_fidelity if self.objective == "kl" else feature_fidelity
        fidelity = compared(dense, output).value
        return self.losses(output).mean().item(), 0.0 if math.isnan(fidelity) else fidelity

    def judge(self, plan: Plan) -> tuple[list[float], float]:
        """The loss of every image, and the fidelity on all."""
        output = self.outputs(plan)
        return self.losses(output).tolist(), self.compare(output)[1]

    def losses(self, output: Float[Tensor, "N K"]) -> Float[Tensor, " N"]:
        """The loss of each of the first images; what is not a number is farther than any."""
        dense = self.dense[: len(output)]
        compared = kl_by_image if self.objective == "kl" else cosine_by_image
        value = compared(dense, output)
        loss = value if self.objective == "kl" else 1 - value
        return loss.masked_fill(loss.isnan(), torch.inf)

    def start_from(self, plan: Plan) -> None:
        """Make ``plan`` the base that further plans share their beginning with."""
        if plan != self.base:
            self.outputs(plan, keep=True)
            self.base = plan

    def outputs(
        self, plan: Plan, batches: int | None = None, keep: bool = False
    ) -> Float[Tensor, "N K"]:
        """What the model returns under ``plan`` for the images of the first ``batches``.

        ``keep`` records the forward, for others to share its beginning.
        """
        first = differs_from(self.base, plan)
        outputs = []
        with torch.inference_mode():
            for number in range(batches or len(self.batches)):
                earlier = self.recordings[number]
                start = first if earlier else 0
                replay = Replay(self.model, plan, self.spec, start, earlier)
                with replay:
                    outputs.append(read_out(self.model(self.batches[number])).float().cpu())
                    if keep:
                        self.recordings[number] = replay.recorded()
        return torch.cat(outputs)


def check_same(output: Float[Tensor, "B K"], before: Float[Tensor, "B K"]) -> None:
    """``InputError`` if a model in training mode gives another output each time."""
    if not torch.equal(output, before):
        raise InputError(
            "the model is in training mode, and by its dropout it gives another output each time; "
            "call model.eval() first"
        )


def differs_from(base: Plan, plan: Plan) -> int:
    """The first block after which ``plan`` acts unlike ``base``; all before it run the same."""
    acting = {*base.acting, *plan.acting}
    if (base.score, base.reduction) == (plan.score, plan.reduction):
        acting = {block for block in acting if base.amount(block) != plan.amount(block)}
    return min(acting, default=0)


def read_out(output: Any) -> Float[Tensor, "B K"]:
    """The logits or the pooled feature in what a model returns."""
    for name in ("logits", "pooler_output"):
        if getattr(output, name, None) is not None:
            output = getattr(output, name)
            break
    if not isinstance(output, torch.Tensor) or output.ndim != 2:
        shape = getattr(output, "shape", None)
        raise InputError(
            "the search compares logits or pooled features [B, K] (a tensor, or an output with "
            f"logits or pooler_output); the model returned {type(output).__name__}"
            + (f" of shape {list(shape)}" if shape is not None else "")
        )
    return output
