"""The rows of a comparison: the dense model twice, and every method at every plan."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from repshift.adapters import describe
from repshift.adapters.spec import EncoderSpec
from repshift.compress import compress
from repshift.compression import Compression
from repshift.errors import InputError
from repshift.input_frames import thin_videos, thinned
from repshift.input_size import resize_images, resized
from repshift.plan import Plan
from repshift.reductions import Prune, ToMe, VidTLDR
from repshift.resnet.border import Border
from repshift.resnet.reductions import RowsAndColumns
from repshift.resnet.spec import ResNetSpec
from repshift.runtime.attention import EagerAttention
from repshift.scores import (
    AttentionEntropy,
    ClassAttention,
    ClippedActivation,
    ColumnAttention,
    Random,
    Shift,
    StreamNorm,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from jaxtyping import Float
    from torch import Tensor, nn

    from repshift.resnet.compression import ResNetCompression

RANDOM_SEEDS = 5


@dataclass(frozen=True)
class Variant:
    """One way to run the model; dense without plans.

    Several plans differ in the random seed alone: their quality is averaged and the first is timed.
    With ``eager`` attention forms its map. ``input`` names another input, such as ``182 pixels``:
    ``given`` makes it of what the others are given, and ``model`` takes it.
    """

    label: str
    schedule: str = ""
    plans: tuple[Plan, ...] = ()
    eager: bool = False
    input: str = ""
    model: nn.Module | None = field(default=None, compare=False)
    given: Callable[[Tensor], Tensor] = field(default=lambda images: images, compare=False)

    @property
    def identities(self) -> list[str]:
        """By what results are found on disk, for each plan; the text of ``label`` may change."""
        dense = "dense, eager" if self.eager else "dense"
        dense = f"{dense}, {self.input}" if self.input else dense
        return [plan.identity for plan in self.plans] or [dense]

    @contextmanager
    def attached(
        self, model: nn.Module, spec: EncoderSpec | ResNetSpec, number: int = 0
    ) -> Generator[Compression | ResNetCompression | None]:
        """Inside, the model runs this way, by plan ``number``; afterwards it is as before."""
        with EagerAttention() if self.eager else nullcontext():
            if self.plans:
                own = None if self.model else spec
                with compress(self.model or model, self.plans[number], own) as compression:
                    yield compression
            else:
                yield None


DENSE = Variant("dense")  # of models without attention
DENSE_EAGER = Variant("dense, eager attention", eager=True)
DENSE_FUSED = Variant("dense, fused attention")


def baseline(rows: Sequence[Variant]) -> Variant:
    """The dense row that the others are compared with."""
    return next(row for row in rows if row in (DENSE, DENSE_FUSED))


def with_rival(rows: Sequence[Variant], rival: Sequence[Variant]) -> list[Variant]:
    """``rows``, with those of the dense model on a smaller input behind the other dense ones."""
    dense = [row for row in rows if not row.plans]
    return [*dense, *rival, *(row for row in rows if row.plans)]


def compared_plans(rows: Sequence[Variant]) -> list[Plan]:
    """One plan of each schedule among the ``rows``."""
    return list({row.schedule: row.plans[0] for row in rows if row.plans}.values())


def against(rows: Sequence[Variant]) -> str:
    """What the others are compared with, in words."""
    fused = baseline(rows) == DENSE_FUSED
    return "the dense model" + (" on fused attention" if fused else "")


def fitted(plan: Plan, spec: EncoderSpec | ResNetSpec) -> Plan:
    """The plan; one that names no method gets the shift, and the reduction, that the model has.

    Of a ResNet, one that prunes by a score takes rows and columns out by that score.
    """
    if isinstance(spec, ResNetSpec):
        if plan.reduction != Prune():
            return plan
        reduction = RowsAndColumns()
        score = reduction.default_score if plan.score == Shift() else plan.score
        return replace(plan, score=score, reduction=reduction)
    named = replace(plan, input_size=None, frames=None) != Plan(plan.drop)
    return replace(plan, score=Shift("mixer")) if spec.mixers and not named else plan


def default_methods(spec: EncoderSpec | ResNetSpec) -> list[Plan]:
    """Attention (of the class token where there is one), random, ToMe, and the shift both ways.

    Of Mamba blocks: the clipped activation, random, and the shift both ways. Of a ResNet: random
    rows and columns, those at the border, those of the lowest norm, and the shift. The plans drop
    nothing yet.
    """
    if isinstance(spec, ResNetSpec):
        return [Plan({}, score) for score in (Random(), Border(), StreamNorm(), Shift())]
    if spec.mixers:
        shifts = Shift("mixer", definition="update"), Shift("mixer")
        return [Plan({}, score) for score in (ClippedActivation(), Random(), *shifts)]
    attention = ClassAttention() if spec.class_token else ColumnAttention()
    shifts = [Plan({}, Shift(definition="update")), Plan({}, Shift())]
    mergeable = spec.mlp and all(spec.mlp) and all(spec.norm2)
    tome = [Plan({}, reduction=ToMe())] if mergeable else []
    return [Plan({}, attention), Plan({}, Random()), *tome, *shifts]


def variants(
    spec: EncoderSpec | ResNetSpec,
    plans: Sequence[tuple[str, Plan]],
    methods: Sequence[str | Plan],
) -> list[Variant]:
    """Dense, on eager and on fused attention where there is any, then the plans by every method.

    ``methods`` are labels of a score, a reduction, or ``score + reduction``, or plans without
    drops; the default ones if empty. A plan that brings another method than the default keeps it as
    a further row. Random dropping is the mean of several seeds.
    """
    attends = isinstance(spec, EncoderSpec) and not spec.mixers
    rows = [DENSE_EAGER, DENSE_FUSED] if attends else [DENSE]
    asked = [one if isinstance(one, Plan) else Plan.from_method(one, {}) for one in methods]
    chosen = [fitted(method, spec) for method in asked or default_methods(spec)]
    for name, plan in plans:
        # The levels of a plan are those of its own score, and its size goes with what it drops.
        if plan.adaptive or (plan.input_size, plan.frames) != (None, None):
            rows.append(_variant(name, plan))
            continue
        tried = [replace(method, drop=plan.drop) for method in chosen]
        if plan not in tried and plan != fitted(Plan(plan.drop), spec):
            tried.append(plan)
        rows += [_variant(name, one) for one in tried]
    _check_distinct(rows)
    return rows


def check_fit(
    rows: Sequence[Variant],
    model: nn.Module,
    spec: EncoderSpec | ResNetSpec,
    example: Float[Tensor, "1 ..."],
) -> None:
    """``InputError`` if a plan does not fit the model, or more tokens leave than there are.

    The dense model runs once, on one example; a ResNet, which counts rows, by every plan.
    """
    every = dict.fromkeys(plan for row in rows for plan in row.plans[:1])
    for size, frames in dict.fromkeys((plan.input_size, plan.frames) for plan in every):
        plans = [plan for plan in every if (plan.input_size, plan.frames) == (size, frames)]
        own, own_spec, given = model, spec, example
        if size is not None:
            own, given = resized(model, size), resize_images(example, size)
        if frames is not None:
            own = thinned(own, frames, of=given.shape[1])
            given = thin_videos(given, frames)
        if own is not model:
            own_spec = describe(own)
        _check_fit(plans, own, own_spec, given)


def _check_fit(
    plans: Sequence[Plan],
    model: nn.Module,
    spec: EncoderSpec | ResNetSpec,
    example: Float[Tensor, "1 ..."],
) -> None:
    """The same for plans of one size."""
    for plan in plans:
        compress(model, plan, spec).detach()
    if isinstance(spec, ResNetSpec):
        for plan in plans:
            with compress(model, plan, spec), torch.inference_mode():
                model(example)
        return
    with compress(model, Plan({}), spec) as dense, torch.inference_mode():
        model(example)
    patches = dense.counts[0] - spec.staying
    for plan in plans:
        if not plan.adaptive:
            plan.entering(len(spec.blocks) + 1, patches)


def _check_distinct(rows: Sequence[Variant]) -> None:
    """Results are kept by row, so that no two may be the same."""
    for place, row in enumerate(rows):
        if row in rows[:place]:
            raise InputError(
                f"{row.label} by the plan {row.schedule} stands in the comparison twice; give "
                "each method and each plan once"
            )


def paper_variants(
    spec: EncoderSpec, name: str, plan: Plan, tldr_name: str, tldr: Plan
) -> list[Variant]:
    """The rows of the paper's tables on video, and random dropping.

    Attention's columns and the shift prune by ``plan``; vid-TLDR, with its own saliency and with
    the shift's, merges by the schedule of ``tldr``.
    """
    pruned = [Plan(plan.drop, score) for score in (Random(), ColumnAttention())]
    merged = [Plan(tldr.drop, score, VidTLDR()) for score in (AttentionEntropy(), Shift())]
    return [
        DENSE_EAGER,
        DENSE_FUSED,
        *(_variant(name, one) for one in (*pruned, Plan(plan.drop))),
        *(_variant(tldr_name, one) for one in merged),
    ]


def _variant(name: str, plan: Plan) -> Variant:
    if plan.score != Random() or not plan.reduction.scored:
        return Variant(plan.method, name, (plan,))
    seeds = tuple(replace(plan, score=Random(seed)) for seed in range(RANDOM_SEEDS))
    method = plan.method.replace(str(plan.score), Random.name)
    return Variant(f"{method}, mean of {RANDOM_SEEDS} seeds", name, seeds)
