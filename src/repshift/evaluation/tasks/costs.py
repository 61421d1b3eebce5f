"""What each variant costs: FLOPs, memory, and time taken in turn with the dense models."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median, quantiles
from typing import TYPE_CHECKING

from tqdm import tqdm

from repshift.compress import compress
from repshift.evaluation.tasks.variants import DENSE_EAGER, Variant, baseline
from repshift.measure.flops import count_flops
from repshift.measure.memory import peak_memory
from repshift.measure.speed import interleave, speedup
from repshift.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from torch import Tensor, nn

    from repshift.adapters.spec import EncoderSpec
    from repshift.resnet.spec import ResNetSpec


@dataclass(frozen=True)
class Cost:
    """One variant on one batch.

    ``gflops`` are multiply-adds of one image or video in G; ``peak_mb`` is on top of weights and
    input;
    ``images_per_s`` is the median over the rounds, ``spread`` the interquartile range of the times
    as a share of it. Speed-ups are medians over the rounds, each against the dense model of the
    same round. ``flop_share`` is the part of the FLOP-implied speed-up over dense-fused that was
    reached.
    """

    kernel: str
    tokens: int
    gflops: float
    peak_mb: float
    images_per_s: float
    spread: float
    speedup_vs_eager: float | None
    speedup_vs_fused: float
    flop_share: float


def measure_costs(
    model: nn.Module,
    spec: EncoderSpec | ResNetSpec,
    rows: Sequence[Variant],
    images: Float[Tensor, "B ..."],
    *,
    rounds: int,
    seconds: float = 0.2,
) -> dict[Variant, Cost]:
    """Measure all ``rows``, the ``baseline`` among them, on torch's current threads.

    Each time is taken over at least ``seconds``.
    """

    def run() -> object:
        return model(images)

    batch = len(images)
    gflops, kernels, tokens, peaks = {}, {}, {}, {}
    for row in tqdm(rows, desc="FLOPs and memory", leave=False):
        with row.attached(model, spec) as compression:
            flops, kernels[row] = count_flops(run)
            gflops[row] = flops / batch / 1e9
            if compression:
                tokens[row] = compression.counts[-1]
        with row.attached(model, spec):
            peaks[row] = peak_memory(run, images.device) / 1e6
    with compress(model, Plan({}), spec) as nothing:
        run()
    with tqdm(total=rounds * len(rows), desc="speed, in turn", leave=False) as bar:
        names = {str(number): row for number, row in enumerate(rows)}
        times = interleave(
            {name: lambda row=row: row.attached(model, spec) for name, row in names.items()},
            run,
            rounds=rounds,
            seconds=seconds,
            progress=bar.update,
        )
    taken = {row: times[name] for name, row in names.items()}
    fused = baseline(rows)
    eager = next((row for row in rows if row.label == DENSE_EAGER), None)

    costs = {}
    for row in rows:
        quarters, middle = quantiles(taken[row], n=4), median(taken[row])
        gain = speedup(taken[row], taken[fused])
        costs[row] = Cost(
            kernel=kernels[row],
            tokens=tokens.get(row, nothing.counts[-1]),
            gflops=gflops[row],
            peak_mb=peaks[row],
            images_per_s=batch / middle,
            spread=(quarters[2] - quarters[0]) / middle,
            speedup_vs_eager=speedup(taken[row], taken[eager]) if eager else None,
            speedup_vs_fused=gain,
            flop_share=gain * gflops[row] / gflops[fused],
        )
    return costs
