"""A plan at work on a ResNet: rows and columns leave its stages. Everything happens in hooks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from repshift.errors import InputError
from repshift.resnet.reductions import GridReduction
from repshift.runtime.attachment import Attachment, Hook
from repshift.runtime.checkpointing import recomputing
from repshift.scores import Snapshots

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float, Int, Shaped
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

    from repshift.plan import Plan
    from repshift.resnet.map import GridMap
    from repshift.resnet.spec import ResNetSpec


@dataclass
class _Call:
    """One forward: the grid that left each stage, and the maps from the full grid to it."""

    batch: int
    device: torch.device
    grids: list[tuple[int, int]] = field(default_factory=list)
    maps: list[tuple[GridMap, ...]] = field(default_factory=list)


class ResNetCompression(Attachment):
    """A plan at work on a ResNet; made by ``compress``.

    A grid is the rows and columns of a feature map. The full grid of a stage is the one that it has
    in the dense model.
    """

    def __init__(self, model: nn.Module, plan: Plan, spec: ResNetSpec) -> None:
        self.plan = plan
        self.spec = spec
        self._call: _Call | None = None
        self._seen: dict[str, Tensor] = {}
        super().__init__(self._attach(model))

    @property
    def grids(self) -> list[tuple[int, int]]:
        """Rows and columns that left each stage in the last call."""
        return list(self._last_call().grids)

    @property
    def counts(self) -> list[int]:
        """Positions that left each stage in the last call: rows times columns."""
        return [rows * columns for rows, columns in self.grids]

    @property
    def kept(self) -> Int[Tensor, "B h w"]:
        """The place in the last stage's full grid, row by row, of each position of the last call.

        Position i of a layer of stride 2 stands where position 2 i of its input stood.
        """
        return self.kept_after(len(self.spec.stages) - 1)

    def kept_after(self, stage: int) -> Int[Tensor, "B h w"]:
        """The place in its full grid of each position that left ``stage`` in the last call."""
        call = self._last_call()
        maps = call.maps[stage]
        rows, columns = (maps[0].height, maps[0].width) if maps else call.grids[stage]
        places = torch.arange(rows * columns, device=call.device)
        places = places.view(1, 1, rows, columns).expand(call.batch, -1, -1, -1)
        for one in maps:
            places = one.apply(places)
        return places[:, 0]

    def restore(
        self, features: Shaped[Tensor, "B C h w"], stage: int | None = None
    ) -> Shaped[Tensor, "B C H W"]:
        """Put what ``stage`` (the last one) gave in the last call back on its full grid.

        Each place that is empty gets the features of the nearest survivor.
        """
        call = self._last_call()
        stage = len(self.spec.stages) - 1 if stage is None else stage
        expected = (call.batch, *call.grids[stage])
        if features.ndim != 4 or (features.shape[0], *features.shape[2:]) != expected:
            raise InputError(
                f"restore: got features of shape {list(features.shape)}, expected [{expected[0]}, "
                f"C, {expected[1]}, {expected[2]}], what stage {stage} gave in the last call"
            )
        for one in reversed(call.maps[stage]):
            features = one.restore(features)
        return features

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_call": None, "_seen": {}}

    def _last_call(self) -> _Call:
        if self._call is None or len(self._call.grids) < len(self.spec.stages):
            raise InputError(
                "no complete forward has run under this plan yet; call the model first"
            )
        return self._call

    def _attach(self, model: nn.Module) -> Iterator[RemovableHandle]:
        yield model.register_forward_pre_hook(Hook(self, "_start"))
        yield model.register_forward_hook(Hook(self, "_finish"))
        needs = self.plan.required()
        for index, stage in enumerate(self.spec.stages):
            # First of all hooks, so that those of others see what is left, whoever came first.
            yield stage.last.register_forward_hook(Hook(self, "_leave", index), prepend=True)
            if index not in self.plan.drop:
                continue
            if "stage entry" in needs:
                yield stage.first.register_forward_pre_hook(Hook(self, "_see_stage_entry", index))
            if "entry" in needs and stage.shortcut is None:
                yield stage.last.register_forward_pre_hook(Hook(self, "_see_entry"))
            if "entry" in needs and stage.shortcut is not None:
                yield stage.shortcut.register_forward_hook(Hook(self, "_see_shortcut"))
            if "branch" in needs:
                yield stage.branch.register_forward_hook(Hook(self, "_see_branch"))

    # The hooks, in the order in which they fire.

    def _start(self, _: int, args: tuple[Any, ...]) -> None:
        self._call, self._seen = None, {}

    def _see_stage_entry(self, stage: int, args: tuple[Any, ...]) -> None:
        if not recomputing():
            self._seen["stage entry"] = args[0]

    def _see_entry(self, _: int, args: tuple[Any, ...]) -> None:
        self._seen["entry"] = args[0]

    def _see_branch(self, _: int, args: tuple[Any, ...], output: Tensor) -> None:
        # A copy: the block adds the shortcut in place.
        self._seen["branch"] = output.clone()

    def _see_shortcut(self, _: int, args: tuple[Any, ...], output: Tensor) -> None:
        self._seen["entry"] = output

    def _leave(self, stage: int, args: tuple[Any, ...], output: Any) -> Tensor | None:
        if not isinstance(output, torch.Tensor) or output.ndim != 4:
            shape = getattr(output, "shape", None)
            kind = type(output).__name__ if shape is None else f"a tensor of shape {list(shape)}"
            raise InputError(f"stage {stage} must return feature maps [B, C, H, W]; got {kind}")
        rows, columns = output.shape[2:]
        leaving = [
            self.plan.leaving(stage, length, f"{what} of stage")
            for length, what in ((rows, "rows"), (columns, "columns"))
        ]
        chosen = self._choose(stage, output, *leaving) if any(leaving) else None
        self._seen = {}
        # A block that checkpointing runs again may belong to an earlier call: it records nothing.
        if not recomputing():
            self._record(stage, output, chosen)
        return None if chosen is None else chosen.apply(output)

    def _finish(self, _: int, args: tuple[Any, ...], output: Any) -> None:
        ran = len(self._call.grids) if self._call else 0
        if ran < len(self.spec.stages):
            raise InputError(
                f"only {ran} of {len(self.spec.stages)} stages ran in this forward; the plan did "
                "not take effect as written (is the model calling its blocks in another way?)"
            )
        self._verified = True

    def _choose(
        self, stage: int, output: Float[Tensor, "B C H W"], rows: int, columns: int
    ) -> GridMap:
        reduction, score = self.plan.reduction, self.plan.score
        assert isinstance(reduction, GridReduction)
        scores = score(self._snapshots(stage, output)).detach()
        if self._verify(output) and scores.sum().isnan():
            raise InputError(
                f"stage {stage}: the score {score} is NaN, so the activations are; check the input "
                "and the weights"
            )
        return reduction.choose(scores.unflatten(1, output.shape[2:]), rows, columns)

    def _snapshots(self, stage: int, output: Float[Tensor, "B C H W"]) -> Snapshots:
        seen, needs = self._seen, self.plan.required()
        for need in ("stage entry", "entry", "branch"):
            if need in needs and need not in seen:
                raise InputError(
                    f"{self.plan.score} did not see the {need} of stage {stage}: the spec names "
                    "another module, or gradient checkpointing runs its last block alone (use "
                    "shift(block) there)"
                )
        entry, branch, first = (seen.get(need) for need in ("entry", "branch", "stage entry"))
        height, width = output.shape[2:]
        if first is not None:
            first = F.adaptive_avg_pool2d(first, (height, width))
        return Snapshots(
            stage,
            0,
            _tokens(output),
            entry=None if entry is None else _tokens(entry),
            exit=_tokens(output) if "exit" in needs else None,
            branch=None if branch is None else _tokens(branch),
            stage_entry=None if first is None else _tokens(first),
            grid=(height, width),
        )

    def _record(self, stage: int, output: Float[Tensor, "B C H W"], chosen: GridMap | None) -> None:
        if stage == 0:
            self._call = _Call(output.shape[0], output.device)
        call = self._call
        height, width = output.shape[2:]
        grid = (height, width)
        if call is None or len(call.grids) != stage:
            raise InputError(f"stage {stage} ran, but not after stage {stage - 1}; check the spec")
        maps = call.maps[-1] if stage else ()
        if stage and grid != call.grids[-1]:
            if grid != tuple(-(-length // 2) for length in call.grids[-1]):
                raise InputError(
                    f"a grid of {list(grid)} left stage {stage}, which got {list(call.grids[-1])}; "
                    "a stage must keep rows and columns or halve them"
                )
            maps = tuple(one.strided() for one in maps)
        if chosen is not None:
            maps = (*maps, chosen)
            grid = (chosen.rows.shape[1], chosen.columns.shape[2])
        call.grids.append(grid)
        call.maps.append(maps)


def _tokens(features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N C"]:
    """The positions row by row: a view, in either memory format."""
    return features.flatten(2).transpose(1, 2)
