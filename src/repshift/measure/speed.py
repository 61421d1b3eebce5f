"""Seconds a call of several contenders, taken in turn so that a busy machine is fair to all."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import nullcontext
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

import torch

# Where CUDA's toolkit is installed without a GPU, what this imports warns of it.
_warns = logging.getLogger("torch.utils.cpp_extension")
_before, _warns.disabled = _warns.disabled, True
from torch.utils.benchmark import Timer  # noqa: E402

_warns.disabled = _before

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager


def interleave(
    contenders: Mapping[str, Callable[[], AbstractContextManager[object]]],
    run: Callable[[], object] | Mapping[str, Callable[[], object]],
    *,
    device: torch.device | None = None,
    rounds: int = 7,
    seconds: float = 0.2,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Time ``run`` inside each contender's context, all contenders in each round.

    Every second round runs backwards, so that drift does not favour a place in the order.

    Args:
        contenders: A context manager for each name.
        run: What is timed: one function for all, or one for each name.
        device: Where it runs; CPU if left out.
        rounds: How often each contender is measured.
        seconds: One measurement repeats ``run`` for about so long, once at least, warmed up, and
            takes the median: on CUDA between events, elsewhere by ``torch.utils.benchmark`` on
            torch's current number of threads.
        progress: Called after each measurement.

    Returns:
        Seconds a call for each name, one entry a round.
    """
    on_cuda = device is not None and device.type == "cuda"
    measure = _cuda_seconds if on_cuda else _cpu_seconds
    times: dict[str, list[float]] = {name: [] for name in contenders}
    # Events are recorded on the current device.
    with torch.inference_mode(), torch.cuda.device(device) if on_cuda else nullcontext():
        for number in range(rounds):
            order = list(contenders)
            for name in order if number % 2 == 0 else reversed(order):
                with contenders[name]():
                    own = run[name] if isinstance(run, Mapping) else run
                    times[name].append(measure(own, seconds))
                progress()
    return times


def _cpu_seconds(run: Callable[[], object], at_least: float) -> float:
    timer = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=at_least).median


def _cuda_seconds(run: Callable[[], object], at_least: float) -> float:
    """Seconds between events on the stream, so that what the host takes to launch counts too."""
    run()  # a compression checks its first forward, which waits for the device
    [once] = _between_events(run, 1)
    if once >= at_least:
        return once
    return median(_between_events(run, min(1000, math.ceil(at_least / max(once, 1e-6)))))


def _between_events(run: Callable[[], object], calls: int) -> list[float]:
    events = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]
    events[0].record()
    for event in events[1:]:
        run()
        event.record()
    events[-1].synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in pairwise(events)]


def speedup(times: Sequence[float], over: Sequence[float]) -> float:
    """How many times as fast as ``over``: the median over rounds that both took part in."""
    return median(theirs / ours for ours, theirs in zip(times, over, strict=True))
