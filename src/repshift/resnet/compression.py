"""A plan at work on a ResNet, and what its last forward left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from repshift.errors import InputError
from repshift.input_size import check_size
from repshift.numbers import whole
from repshift.resnet.sites import GridEngine, StageSite
from repshift.runtime.attachment import Hook

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from jaxtyping import Float, Int, Shaped
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

    from repshift.plan import Plan
    from repshift.resnet.sites import GridTrace
    from repshift.resnet.spec import ResNetSpec


class ResNetCompression(GridEngine):
    """A plan at work on a ResNet; made by ``compress``.

    A grid is the rows and columns of a feature map. The full grid of a stage is the one that it has
    in the dense model. What it tells is of the last forward that the calling thread ran.
    """

    def __init__(self, model: nn.Module, plan: Plan, spec: ResNetSpec) -> None:
        super().__init__(model, plan, spec)
        self._attach(self._parts(model))

    @property
    def grids(self) -> list[tuple[int, int]]:
        """How many rows and columns each stage kept in the last forward."""
        return list(self._last_trace().grids)

    @property
    def counts(self) -> list[int]:
        """How many positions each stage kept in the last forward: rows times columns."""
        return [rows * columns for rows, columns in self.grids]

    @property
    def kept(self) -> Int[Tensor, "B h w"]:
        """The place in the last stage's full grid, row by row, of each position that was kept.

        Position i of a layer of stride 2 stands where position 2 i of its input stood.
        """
        return self.kept_after(len(self.spec.stages) - 1)

    def kept_after(self, stage: int) -> Int[Tensor, "B h w"]:
        """The place in its full grid of each position that ``stage`` kept in the last forward."""
        trace = self._last_trace()
        maps = trace.maps[self._index(stage)]
        rows, columns = (maps[0].height, maps[0].width) if maps else trace.grids[stage]
        places = torch.arange(rows * columns, device=trace.device)
        places = places.view(1, 1, rows, columns).expand(trace.batch, -1, -1, -1)
        for one in maps:
            places = one.apply(places)
        return places[:, 0]

    def restore(
        self, features: Shaped[Tensor, "B C h w"], stage: int | None = None
    ) -> Shaped[Tensor, "B C H W"]:
        """Put what ``stage`` (the last one) gave in the last forward back on its full grid.

        Each place that is empty gets the features of the nearest kept one.
        """
        trace = self._last_trace()
        stage = self._index(len(self.spec.stages) - 1 if stage is None else stage)
        expected = (trace.batch, *trace.grids[stage])
        if not isinstance(features, torch.Tensor):
            raise InputError(f"restore takes features [B, C, h, w]; got {features!r}")
        if features.ndim != 4 or (features.shape[0], *features.shape[2:]) != expected:
            raise InputError(
                f"restore: got features of shape {list(features.shape)}, expected [{expected[0]}, "
                f"C, {expected[1]}, {expected[2]}], what stage {stage} gave in the last forward"
            )
        for one in reversed(trace.maps[stage]):
            features = one.restore(features)
        return features

    @property
    def scores(self) -> Mapping[int, Float[Tensor, "B N"]]:
        """By stage where rows and columns were dropped: the scores of its positions, row by row."""
        return dict(self._last_trace().scores)

    def _index(self, stage: int) -> int:
        return whole(stage, "the stage", 0, len(self.spec.stages) - 1)

    def _last_trace(self) -> GridTrace:
        trace = self._trace
        if trace is None or len(trace.grids) < len(self.spec.stages):
            raise InputError(
                "no complete forward has run under this plan in this thread yet; call the model "
                "first"
            )
        return trace

    def _parts(self, model: nn.Module) -> Iterator[RemovableHandle]:
        yield model.register_forward_pre_hook(Hook(self, self._start), with_kwargs=True)
        yield model.register_forward_hook(Hook(self, self._finish))
        for index in range(len(self.spec.stages)):
            yield from StageSite(self, index).attach()

    def _start(self, _: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        check_size(self.plan, (*args, *kwargs.values()))
        self._local.trace, self._local.captured = None, {}

    def _finish(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        ran = len(self._trace.grids) if self._trace else 0
        if ran < len(self.spec.stages):
            raise InputError(
                f"only {ran} of {len(self.spec.stages)} stages ran in this forward; the plan did "
                "not take effect as written (is the model calling its blocks in another way?)"
            )
        self._verified = True
