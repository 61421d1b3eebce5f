"""Where a result was measured."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch

import repshift

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

# Where a library is installed by another name than it is imported.
INSTALLED = {"open_clip": "open_clip_torch"}


def environment(device: torch.device, dtype: torch.dtype, *libraries: str) -> dict[str, Any]:
    """Device, precision, threads, and the versions of ``libraries`` that are installed."""
    return {
        "device": device.type,
        "processor": processor(device),
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "versions": versions(*libraries),
    }


def libraries(model: nn.Module) -> list[str]:
    """Those that a model is made of, beside PyTorch, by the names they are installed by."""
    packages = {type(module).__module__.partition(".")[0] for module in model.modules()}
    return sorted(INSTALLED.get(package, package) for package in packages - {"torch", "repshift"})


def in_words(facts: Mapping[str, Any]) -> str:
    """Such facts in a line."""
    flat = {name: value for name, value in facts.items() if name != "versions"}
    flat |= facts.get("versions", {})
    return ", ".join(f"{name} {value}" for name, value in flat.items())


def processor(device: torch.device) -> str:
    """The name of the device's chip."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def versions(*libraries: str) -> dict[str, str]:
    """Of Python, PyTorch, those of ``libraries`` that are installed, and this package."""
    found = {"python": platform.python_version(), "torch": str(torch.__version__)}
    for library in libraries:
        with suppress(PackageNotFoundError):
            found[library] = version(library)
    # Not from the metadata, which a bare source tree does not have.
    return found | {"repshift": repshift.__version__}
