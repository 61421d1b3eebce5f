"""What each variant costs: FLOPs, memory, and time taken in turn with the dense models."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
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
    from collections.abc import Callable, Sequence

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
    runs: dict[Variant, Callable[[], object]] = {}
    for row in rows:
        runs[row] = partial(row.model or model, row.given(images))
    batch = len(images)
    gflops, kernels, tokens, peaks = {}, {}, {}, {}
    for row in tqdm(rows, desc="FLOPs and memory", leave=False):
        with row.attached(model, spec):
            flops, kernels[row] = count_flops(runs[row])
        gflops[row] = flops / batch / 1e9
        with row.attached(model, spec) as compression:
            peaks[row] = peak_memory(runs[row], images.device) / 1e6
        if compression is None:
            own = row.model or model
            with compress(own, Plan({}), None if row.model else spec) as compression:
                runs[row]()
        tokens[row] = compression.counts[-1]
    with tqdm(total=rounds * len(rows), desc="speed, in turn", leave=False) as bar:
        names = {str(number): row for number, row in enumerate(rows)}
        times = interleave(
            {name: lambda row=row: row.attached(model, spec) for name, row in names.items()},
            {name: runs[row] for name, row in names.items()},
            device=images.device,
            rounds=rounds,
            seconds=seconds,
            progress=bar.update,
        )
    taken = {row: times[name] for name, row in names.items()}
    fused = baseline(rows)
    eager = DENSE_EAGER if DENSE_EAGER in rows else None

    costs = {}
    for row in rows:
        quarters, middle = quantiles(taken[row], n=4), median(taken[row])
        gain = speedup(taken[row], taken[fused])
        costs[row] = Cost(
            kernel=kernels[row],
            tokens=tokens[row],
            gflops=gflops[row],
            peak_mb=peaks[row],
            images_per_s=batch / middle,
            spread=(quarters[2] - quarters[0]) / middle,
            speedup_vs_eager=speedup(taken[row], taken[eager]) if eager else None,
            speedup_vs_fused=gain,
            flop_share=gain * gflops[row] / gflops[fused],
        )
    return costs
