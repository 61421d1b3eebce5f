"""``repshift.search_plan``: a plan for a model, found on unlabelled images."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

import torch

from repshift.adapters import EncoderSpec, describe
from repshift.compress import compress
from repshift.errors import InputError
from repshift.input_size import input_in_words
from repshift.measure.bootstrap import apart, paired_interval
from repshift.measure.digest import digest
from repshift.measure.environment import libraries, processor, versions
from repshift.method import check_choice
from repshift.plan import Plan
from repshift.scores import Random
from repshift.search.adapt import adapt
from repshift.search.candidates import METHODS, Search, Trial
from repshift.search.fidelity_meter import FidelityMeter, Objective
from repshift.search.memo import Memo
from repshift.search.sizes import (
    Sized,
    at_cost,
    least_cost,
    nearest_dense,
    smaller_sizes,
)
from repshift.sequence.amounts import Level

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from jaxtyping import Float
    from torch import Tensor, nn

    from repshift.search.candidates import Progress
    from repshift.search.cost_model import CostModel


Budget = Literal["fixed", "adaptive"]

# The costs at which the found shape is also tried, for the plot.
CURVE = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)


@dataclass(frozen=True)
class SearchResult:
    """A found plan: ``plan``, what was tried on the way, and where it comes from.

    ``provenance`` holds model, data digest, seed, settings, versions, and the promised and measured
    figures; the plan carries it into its file.
    """

    plan: Plan
    tried: list[Trial]
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "plan", self.plan.found(self.provenance))

    def summary(self) -> str:
        """The result in two or three lines."""
        facts, kept = self.provenance, self.provenance["held_out"]
        [(target, value)] = facts["target"].items()
        unlike = "KL" if facts["objective"] == "kl" else "1 - cosine"
        lines = [
            str(self.plan)
            + (f" on {size}" if (size := input_in_words(self.plan)) else "")
            + f", {100 * facts['flops']:.1f} % of the dense FLOPs",
            f"on images that the search did not see: fidelity {kept['fidelity']:.4f}, {unlike} "
            f"{kept['loss']:.4f} (on those it saw: {facts['promised']['fidelity']:.4f}, "
            f"{facts['promised']['loss']:.4f})",
        ]
        if fixed := facts.get("held_out, fixed budget"):
            lines.append(
                "with the same number of tokens in every image: fidelity "
                f"{fixed['fidelity']:.4f}, {unlike} {fixed['loss']:.4f}"
            )
        if rival := facts.get("smaller input"):
            size = next(f"{rival[unit]} {unit}" for unit in ("pixels", "frames") if unit in rival)
            lines.append(
                f"the dense model on {size}, {100 * rival['flops']:.1f} % of the FLOPs: {unlike} "
                f"{rival['loss']:.4f}, the plan's is {apart(rival['difference'])}"
            )
        if target == "speedup":
            lines.append(f"{facts['measured_speedup']:.2f}x measured, {value:.2f}x promised")
        return "\n".join(lines)

    def to_json(self) -> str:
        """A plan's file with its provenance; ``Plan.from_json`` reads it."""
        return self.plan.to_json()


def search_plan(
    model: nn.Module,
    images: Float[Tensor, "N ..."],
    *,
    flops: float | None = None,
    speedup: float | None = None,
    fidelity: float | None = None,
    objective: Objective = "kl",
    methods: Sequence[str] | None = None,
    budget: Budget = "fixed",
    seed: int = 0,
    batch_size: int = 16,
    spec: EncoderSpec | None = None,
    name: str | None = None,
    state: Path | None = None,
    progress: Progress | None = None,
) -> SearchResult:
    """Find the plan that keeps ``model`` closest to its dense self at a given cost.

    One target: ``flops``, the share of the dense FLOPs; ``speedup``, the measured one on this
    device, batch size and number of threads; or ``fidelity``, the least top-1 agreement with the
    dense model (of features: the least cosine). The dense model is the teacher; nothing is trained
    and no label is read. ``objective`` is ``kl`` for a model that gives logits and ``cosine`` for
    one that gives a pooled feature. ``methods`` are labels as in ``Plan.from_method``; if left out,
    a short list without those that the model does not allow.

    With an ``adaptive`` budget the plan that was found is given levels by ``adapt``, so that every
    image drops what it can spare and as many tokens are dropped on average.
    The target is that of the plan before: on other images the cost differs by some percent. The
    provenance has the fidelity of both.

    Where the model takes smaller images (``repshift.resized``), size and reduction are searched
    together, and the plan says its ``input_size``. The provenance has the dense model on a smaller
    input at the same FLOPs, and by how much the plan is closer to the dense model (95 % interval).

    Half of the ``images``, drawn by ``seed``, are searched on; the other half only checks the
    result: what the search made of the best closed form is kept if it holds there. ``state`` is a
    file that lets a stopped search go on; delete it once the result is written. ``progress`` is
    called after every plan that was tried, with a line about it. Some minutes on one CPU core for
    128 images and a ViT-S.

    Raises ``InputError`` if the target is not one, or cannot be reached.
    """
    # torch's counter of FLOPs brings half of setuptools along.
    from repshift.search.cost_model import FlopsCost, TimeCost

    target = check_target(flops, speedup, fidelity)
    check_choice("budget", budget, Budget)
    if not isinstance(images, torch.Tensor):
        raise InputError(f"images is a {type(images).__name__}; expected a tensor [N, C, H, W]")
    if len(images) < 2:
        raise InputError(f"the search needs 2 images or more, got {len(images)}")
    own_spec = spec  # of a model of the user's own
    if spec is None:
        described = describe(model)
        if not isinstance(described, EncoderSpec):
            raise InputError(
                f"{type(model).__name__} loses rows and columns; the search finds plans for tokens"
            )
        spec = described
    if len(spec.blocks) < 2:
        raise InputError("the search needs a model of 2 blocks or more, got one of 1")
    facts = {
        "model": name or type(model).__name__,
        "weights": digest(model.state_dict().values()),
        "images": len(images),
        "data": digest([images]),
        "target": target,
        "objective": objective,
        "seed": seed,
        "batch_size": batch_size,
        "device": processor(images.device),
        "dtype": str(images.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "versions": versions(*libraries(model)),
    }
    if budget == "adaptive":
        # What does not go with it shows in a forward: before the search, not after.
        trial = Plan({0: Level(0.5)}, Random())
        with compress(model, trial, spec), torch.inference_mode():
            model(images[:1])
    plans = (
        usual_methods(model, spec, budget)
        if methods is None
        else [Plan.from_method(label, {}) for label in methods]
    )
    for plan in plans:
        replace(plan, drop={0: probe(budget)})  # an error, if they do not go together
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    seen, unseen = images[order[len(images) // 2 :]], images[order[: len(images) // 2]]

    meter = FidelityMeter(model, spec, seen, objective, batch_size)
    outputs = digest([meter.dense])  # they tell of code and settings, which the weights do not
    memo = Memo(state, facts | {"methods": [plan.identity for plan in plans], "outputs": outputs})
    counted = FlopsCost(model, spec, seen[:1], memo)
    # A batch is timed whole, of few images with some of them twice.
    repeats = -(-batch_size // len(seen))
    whole = seen.repeat(repeats, *[1] * (seen.ndim - 1))[:batch_size]
    timed = TimeCost(model, spec, whole, memo) if speedup is not None else None
    full, own = Search(meter, timed or counted, memo, progress, plans), Sized(model, spec)
    smaller = smaller_sizes(model, seen, own_spec)
    if fidelity is not None:
        found = least_cost(full, own, smaller, seen, fidelity)
    else:
        share = flops if flops is not None else 1 / (speedup or 1)
        found = at_cost(full, own, smaller, seen, share)
    found.search.draw_curve(found.trials[-1].plan, CURVE)

    # What the search made of the best closed form is kept if it holds on images that it never saw.
    teacher = FidelityMeter(model, spec, unseen, objective, batch_size)
    check = found.sized.meter(unseen, teacher, batch_size)
    judged = [
        memo(f"{trial.plan.identity}, held out", partial(check.judge, trial.plan))
        for trial in found.trials
    ]
    best = min(range(len(judged)), key=lambda at: fmean(judged[at][0]))
    plan, cost, held_out = found.trials[best].plan, found.sized.cost(counted), judged[best]
    figures: dict[str, Any] = {
        "flops": cost.measure(plan),
        "promised": _named(found.trials[best].loss, found.trials[best].fidelity),
        "held_out": _mean(*held_out),
    }
    if budget == "adaptive":
        sized = found.sized
        plan = adapt(sized.model, plan, sized.prepare(seen), batch_size=batch_size, spec=sized.spec)
        figures["held_out, fixed budget"] = figures["held_out"]
        figures["flops"] = cost.mean(plan, sized.prepare(unseen).split(batch_size))
        figures["promised"] = _named(*found.search.meter.rate(plan))
        held_out = check.judge(plan)
        figures["held_out"] = _mean(*held_out)
    if timed is not None:
        figures["promised"]["speedup"] = speedup
        figures["measured_speedup"] = 1 / found.sized.cost(timed).measure(plan)
    rival = nearest_dense(smaller, counted, figures["flops"])
    if rival is not None:
        dense = rival.meter(unseen, teacher, batch_size)
        theirs = dense.losses(dense.own).tolist()
        figures["smaller input"] = _against(rival, counted, theirs, held_out[0])
    return SearchResult(plan, found.tried, facts | figures)


def _against(
    rival: Sized, counted: CostModel, theirs: Sequence[float], ours: Sequence[float]
) -> dict[str, Any]:
    """The dense model at a smaller size on the held-out images, and how far the plan is ahead."""
    mean, low, high = paired_interval(torch.tensor(ours), torch.tensor(theirs))
    return {
        **({"pixels": rival.side} if rival.side is not None else {"frames": rival.frames}),
        "flops": rival.cost(counted).measure(rival.of(Plan({}))),
        "loss": fmean(theirs),
        "difference": {"loss": mean, "from": low, "to": high},
    }


def probe(budget: Budget) -> float | Level:
    """An amount by which to see whether a method goes with a model and a budget."""
    return Level(0.5) if budget == "adaptive" else 0.5


def _named(loss: float, fidelity: float) -> dict[str, float]:
    return {"loss": loss, "fidelity": fidelity}


def _mean(losses: Sequence[float], fidelity: float) -> dict[str, float]:
    """Of the losses of all images, and their fidelity."""
    return _named(fmean(losses), fidelity)


def check_target(
    flops: float | None, speedup: float | None, fidelity: float | None
) -> dict[str, float]:
    """The one target by its name; ``InputError`` if it is not one, or none that can be met."""
    given = {"flops": flops, "speedup": speedup, "fidelity": fidelity}
    target = {name: value for name, value in given.items() if value is not None}
    if len(target) != 1:
        raise InputError(
            "the search takes one target, flops (a share such as 0.65), speedup (such as 1.5) or "
            f"fidelity (such as 0.99); got {', '.join(target) or 'none'}"
        )
    [(name, value)] = target.items()
    if name == "speedup" and not 1 < value < math.inf:
        raise InputError(f"speedup is {value}; expected above 1, such as 1.5")
    if name != "speedup" and not 0 < value <= 1:
        raise InputError(f"{name} is {value}; expected above 0, at most 1")
    return target


def usual_methods(model: nn.Module, spec: EncoderSpec, budget: Budget) -> list[Plan]:
    """The short list of methods, as plans, without those that model or budget do not allow."""
    plans = []
    for label in METHODS:
        plan = Plan.from_method(label, {})
        try:
            compress(model, replace(plan, drop={0: probe(budget)}), spec).detach()
        except InputError:
            continue
        plans.append(plan)
    return plans
