"""Where a result was measured."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

import repshift


def environment(device: torch.device, dtype: torch.dtype, *libraries: str) -> dict[str, Any]:
    """Device, precision, threads, and the versions of ``libraries`` that are installed."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    versions = {"python": platform.python_version(), "torch": str(torch.__version__)}
    for library in libraries:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            continue
    return {
        "device": device.type,
        "processor": name or platform.machine(),
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "versions": {**versions, "repshift": repshift.__version__},
    }
