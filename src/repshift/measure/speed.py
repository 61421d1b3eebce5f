"""Seconds a call of several contenders, taken in turn so that a busy machine is fair to all."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

import torch
from torch.utils.benchmark import Timer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager


def interleave(
    contenders: Mapping[str, Callable[[], AbstractContextManager[object]]],
    run: Callable[[], object],
    *,
    rounds: int = 7,
    seconds: float = 0.2,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Time ``run`` inside each contender's context, all contenders in each round.

    Each time is one measurement of ``torch.utils.benchmark`` (warmed up, device synchronised) of at
    least ``seconds``, on torch's current number of threads. Every second round runs backwards, so
    that drift does not favour a place in the order. ``progress`` is called after each measurement.
    """
    timer = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
    times: dict[str, list[float]] = {name: [] for name in contenders}
    with torch.inference_mode():
        for number in range(rounds):
            order = list(contenders)
            for name in order if number % 2 == 0 else reversed(order):
                with contenders[name]():
                    times[name].append(timer.blocked_autorange(min_run_time=seconds).median)
                progress()
    return times


def speedup(times: Sequence[float], over: Sequence[float]) -> float:
    """How many times as fast as ``over``: the median over rounds that both took part in."""
    return median(theirs / ours for ours, theirs in zip(times, over, strict=True))
