"""What compression buys on one model: speed, memory and FLOPs beside fidelity and accuracy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from tqdm import tqdm

from repshift.errors import InputError
from repshift.evaluation.data.labels import first_and_last
from repshift.evaluation.tasks.costs import Cost, measure_costs
from repshift.evaluation.tasks.smaller_input import at_its_size, smaller_images
from repshift.evaluation.tasks.variants import (
    Variant,
    against,
    baseline,
    compared_plans,
    with_rival,
)
from repshift.measure.digest import digest
from repshift.measure.environment import environment, libraries
from repshift.measure.fidelity import accuracy, feature_fidelity, logit_fidelity
from repshift.search.fidelity_meter import read_out

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jaxtyping import Float, Int
    from torch import Tensor

    from repshift.adapters.spec import EncoderSpec
    from repshift.evaluation.data.batches import AnySource
    from repshift.evaluation.tasks.outputs import Outputs
    from repshift.evaluation.zoo.load import LoadedModel
    from repshift.resnet.spec import ResNetSpec

ROUNDS = 7


@dataclass(frozen=True)
class Compared:
    """What every row of a table has: a method and its cost (see ``Cost``)."""

    method: str
    plan: str
    kernel: str
    tokens: int
    gflops: float
    peak_mb: float
    spread: float
    speedup_vs_eager: float | None
    speedup_vs_fused: float
    flop_share: float


AnyRow = TypeVar("AnyRow", bound=Compared)


@dataclass(frozen=True)
class Row(Compared):
    """One method on images, as it stands in table, CSV and JSON: a cost and a quality."""

    images_per_s: float
    fidelity: float
    kl: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Quality:
    """Agreement with the dense model over all images, and accuracy where there are labels.

    ``kind`` says what ``fidelity`` is: top-1 agreement, or the cosine of features.
    """

    kind: str
    fidelity: float
    kl: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Bench(Generic[AnyRow]):
    """The finished comparison: rows of one kind, what was measured where, files left out.

    ``title`` says it in a sentence or two. ``quality`` is the field of a row by which methods are
    compared beside their speed, in percent after it is multiplied by ``scale``; ``criterion`` is
    its name for people. ``reference`` says in words what speed is compared with.
    """

    rows: list[AnyRow]
    environment: dict[str, Any]
    skipped: list[str]
    title: str
    quality: str
    criterion: str
    scale: float
    reference: str

    def percent(self, row: AnyRow) -> float:
        """The quality of a row."""
        return self.scale * getattr(row, self.quality)

    def to_dict(self) -> dict[str, Any]:
        """What ``bench.json`` holds."""
        return {"rows": [asdict(row) for row in self.rows], "environment": self.environment}


def run_bench(
    loaded: LoadedModel,
    spec: EncoderSpec | ResNetSpec,
    source: AnySource,
    rows: Sequence[Variant],
    *,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
    outputs: Outputs,
) -> Bench:
    """Judge and time every variant on the same images, in turn, on torch's current threads.

    The dense model on smaller images joins them, at the FLOPs of each plan. ``outputs`` keep what
    was judged so far.
    """

    def place(images: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        return images.to(device, dtype)

    model = loaded.model.to(device, dtype)
    sample = place(next(source.batches(1)).images)
    rival, reason = [], "its inputs are no images"
    if sample.ndim == 4:
        rival, reason = smaller_images(model, spec, compared_plans(rows), sample)
    rows = [at_its_size(row, model) for row in with_rival(rows, rival)]
    made_on = environment(device, dtype, *libraries(model))
    runs = [(row, number) for row in rows for number in range(max(1, len(row.plans)))]
    with torch.inference_mode():  # which tells of code and settings, as the weights do not
        dense = digest([read_out(model(sample))])
    outputs.begin(model, runs, made_on | {"dense": dense})
    quality, first, count = _judge(loaded, spec, source, runs, batch_size, place, outputs)
    repeats = -(-batch_size // len(first))
    images = place(first.repeat(repeats, *[1] * (first.ndim - 1))[:batch_size])

    costs = measure_costs(model, spec, rows, images, rounds=ROUNDS)
    kind, labelled = quality[rows[0]].kind, quality[rows[0]].accuracy is not None
    facts = {
        "model": loaded.name,
        "fidelity": kind,
        "images": count,
        "skipped": len(source.skipped),
        **({"classes": list(source.classes)} if source.classes else {}),
        "batch_size": batch_size,
        "rounds": ROUNDS,
    } | made_on
    return Bench(
        rows=[_row(row, costs[row], quality[row]) for row in rows],
        environment=facts,
        skipped=list(source.skipped),
        title=f"{loaded.name}, {count} images{skipped(source.skipped)}{_folders(source.classes)}; "
        f"{measured(facts)} Fidelity is {kind} with {against(rows)}."
        + (f" No row has a smaller input: {reason}." if reason else ""),
        quality="accuracy" if labelled else "fidelity",
        criterion="accuracy" if labelled else f"fidelity ({kind})",
        scale=100.0,
        reference=against(rows),
    )


def measured(facts: Mapping[str, Any]) -> str:
    """How speeds were taken, for a title."""
    return (
        f"batches of {facts['batch_size']} on {facts['device']} ({facts['dtype']}, "
        f"{facts['threads']} threads), median of {facts['rounds']} rounds in turn; GFLOPs "
        "are multiply-adds."
    )


def skipped(files: Sequence[str]) -> str:
    """How many files were left out, for a title."""
    return f", {len(files)} files skipped" if files else ""


def _folders(classes: Sequence[str]) -> str:
    """Which folders stand for which classes, for a title."""
    return f" in {len(classes)} class folders ({first_and_last(classes)})" if classes else ""


def _judge(
    loaded: LoadedModel,
    spec: EncoderSpec | ResNetSpec,
    source: AnySource,
    runs: Sequence[tuple[Variant, int]],
    batch_size: int,
    place: Callable[[Tensor], Tensor],
    kept: Outputs,
) -> tuple[dict[Variant, Quality], Float[Tensor, "B ..."], int]:
    """Run every variant over every image; also the first batch and the number of images."""
    model, rows = loaded.model, list(dict.fromkeys(row for row, _ in runs))
    outputs: dict[tuple[Variant, int], list[Tensor]] = {run: [] for run in runs}
    labels: list[Tensor] = []
    first = None
    batches, total = source.batches(batch_size), source.parts(batch_size)

    def one(run: tuple[Variant, int], images: Tensor) -> Tensor:
        row, number = run
        with row.attached(model, spec, number):
            return read_out((row.model or model)(row.given(images))).float().cpu()

    with torch.inference_mode():
        for batch in tqdm(batches, total=total, desc="fidelity", leave=False):
            first = batch.images if first is None else first
            labels += [] if batch.labels is None else [batch.labels]
            images = place(batch.images)
            found = kept.of(batch.images, lambda images=images: [one(run, images) for run in runs])
            for run, output in zip(runs, found, strict=True):
                outputs[run].append(output)
    assert first is not None
    whole = {run: torch.cat(parts) for run, parts in outputs.items()}
    dense = whole[baseline(rows), 0]
    if not dense.isfinite().all():
        raise InputError(f"the dense {loaded.name} gives NaN or infinity on these images")
    truth = torch.cat(labels) if labels else None
    return (
        {
            row: _quality(dense, [whole[r] for r in runs if r[0] is row], truth, loaded.classes > 0)
            for row in rows
        },
        first,
        len(dense),
    )


def _quality(
    dense: Float[Tensor, "N K"],
    outputs: list[Tensor],
    truth: Int[Tensor, " N"] | None,
    logits: bool,
) -> Quality:
    compare = logit_fidelity if logits else feature_fidelity
    seen = [compare(dense, output) for output in outputs]
    kls = [one.kl for one in seen if one.kl is not None]
    right = [] if truth is None else [accuracy(output, truth) for output in outputs]
    return Quality(
        seen[0].kind,
        sum(one.value for one in seen) / len(seen),
        sum(kls) / len(kls) if kls else None,
        sum(right) / len(right) if right else None,
    )


def _row(variant: Variant, cost: Cost, quality: Quality) -> Row:
    return Row(
        method=variant.label,
        plan=variant.schedule,
        **asdict(cost),
        fidelity=quality.fidelity,
        kl=quality.kl,
        accuracy=quality.accuracy,
    )
