"""ResNets: what their adapters share. A stage is what a library calls ``layer1`` to ``layer4``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from repshift.resnet.spec import ResNetSpec, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn


def stages_of(
    model: nn.Module, branches: Mapping[type[nn.Module], Callable[[Any], nn.Module]]
) -> ResNetSpec | None:
    """The stages of a model that keeps them in ``layer1`` and so on; None if a block is unknown.

    ``branches`` names, for each kind of block whose forward was read, the module whose output is
    added to the shortcut.
    """
    parts: dict[str, Any] = dict(model.named_children())
    layers = [part for name, part in parts.items() if name.removeprefix("layer").isdecimal()]
    stages = []
    for layer in layers:
        added = [
            branch(block)
            for block in layer
            for kind, branch in branches.items()
            if type(block).forward is kind.forward
        ]
        if not added or len(added) < len(layer):
            return None
        stages.append(Stage(layer[0], layer[-1], added[-1], layer[-1].downsample))
    return ResNetSpec(stages) if stages else None
