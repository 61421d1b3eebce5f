"""Methods of a model that give feature maps: every token is put back in its place first."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch

from repshift.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Float
    from torch import Tensor

    from repshift.adapters.spec import MapMethod
    from repshift.runtime.engine import Engine


class DenseMaps:
    """What takes the place of one such method while tokens are dropped."""

    def __init__(self, engine: Engine, method: MapMethod) -> None:
        self.engine, self.grid = engine, method.grid

    def run(self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The method with ``output_fmt="NLC"``; its maps are laid out here."""
        form = inspect.signature(method).bind(*args, **kwargs)
        form.apply_defaults()
        if self.engine.plan.adaptive:
            raise InputError(
                "with a level the images of a batch keep different numbers of tokens, and lie end "
                "to end between the blocks; take features with forward hooks on the blocks and "
                "restore(features, block)"
            )
        if form.arguments.get("output_fmt") != "NCHW":
            return method(*args, **kwargs)
        form.arguments["output_fmt"] = "NLC"
        output = method(*form.args, **form.kwargs)
        height, width = next(iter(form.arguments.values())).shape[-2:]
        grid = self.grid((height, width))
        blocks = _taken(form.arguments["indices"], len(self.engine.spec.blocks))

        def laid_out(features: Sequence[Any]) -> list[Any]:
            return [
                self._map(one, block, grid) for one, block in zip(features, blocks, strict=True)
            ]

        if isinstance(output, dict):
            return {**output, "image_intermediates": laid_out(output["image_intermediates"])}
        if isinstance(output, tuple):
            last, features = output
            return last, laid_out(features)
        return laid_out(output)

    def _map(self, features: Any, block: int, grid: tuple[int, int]) -> Any:
        if isinstance(features, tuple):
            patches, prefix = features
            return self._map(patches, block, grid), prefix
        return self._dense(features, block).transpose(1, 2).unflatten(2, grid).contiguous()

    def _dense(self, patches: Float[Tensor, "B k C"], block: int) -> Float[Tensor, "B P C"]:
        """The features of all patches, of those that are left after a block."""
        trace, prefix = self.engine._trace, self.engine.spec.prefix_tokens
        assert trace is not None
        way = trace.map_after(block)
        if way is None:
            return patches
        blank = patches.new_zeros(len(patches), prefix, patches.shape[2])
        return way.restore(torch.cat((blank, patches), dim=1))[:, prefix:]


def _taken(indices: int | Sequence[int] | None, depth: int) -> list[int]:
    """The blocks whose output is taken: all, the last few, or those named, in their order."""
    if indices is None:
        return list(range(depth))
    if isinstance(indices, int):
        return list(range(depth - indices, depth))
    return sorted({index % depth for index in indices})
