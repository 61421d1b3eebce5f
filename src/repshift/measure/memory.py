"""Peak memory of a forward, on top of what was there before it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from torch.profiler import ProfilerActivity, profile

if TYPE_CHECKING:
    from collections.abc import Callable


def peak_memory(run: Callable[[], object], device: torch.device) -> int:
    """Bytes that the allocator held at most during one run, beyond those at its start.

    Weights and inputs that exist already do not count. On CUDA from the caching allocator's
    statistics, elsewhere from the allocations that torch's profiler records.
    """
    with torch.inference_mode():
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            run()
            return torch.cuda.max_memory_allocated(device) - before
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # its notices are not for the user
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            run()
    profiler: Any = recorded.profiler
    events = profiler.kineto_results.events()
    held = peak = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
