"""Where a ResNet drops rows and columns: after the last block of a stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from repshift.errors import InputError
from repshift.resnet.reductions import GridReduction
from repshift.runtime.attachment import Attachment, Hook
from repshift.runtime.checkpointing import recomputing
from repshift.runtime.stochastic_depth import refuse_stochastic_depth
from repshift.scores import Snapshots

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

    from repshift.plan import Plan
    from repshift.resnet.map import GridMap
    from repshift.resnet.spec import ResNetSpec


@dataclass(eq=False)
class GridTrace:
    """One forward: the grid that left each stage, the maps from the full grid to it, the scores.

    It belongs to the thread that ran the forward.
    """

    batch: int
    device: torch.device
    grids: list[tuple[int, int]] = field(default_factory=list)
    maps: list[tuple[GridMap, ...]] = field(default_factory=list)
    scores: dict[int, Float[Tensor, "B N"]] = field(default_factory=dict)

    def record(self, stage: int, output: Float[Tensor, "B C H W"], chosen: GridMap | None) -> None:
        """``stage`` gave ``output``, of which the ``chosen`` rows and columns are kept."""
        height, width = output.shape[2:]
        grid = (height, width)
        maps = self.maps[-1] if stage else ()
        if stage and grid != self.grids[-1]:
            if grid != tuple(-(-length // 2) for length in self.grids[-1]):
                raise InputError(
                    f"a grid of {list(grid)} left stage {stage}, which got {list(self.grids[-1])}; "
                    "a stage must keep rows and columns or halve them"
                )
            maps = tuple(one.strided() for one in maps)
        if chosen is not None:
            maps = (*maps, chosen)
            grid = (chosen.rows.shape[1], chosen.columns.shape[2])
        self.grids.append(grid)
        self.maps.append(maps)


class GridEngine(Attachment):
    """A plan, the spec of the ResNet it works on, and the trace of this thread's last forward."""

    def __init__(self, model: nn.Module, plan: Plan, spec: ResNetSpec) -> None:
        super().__init__(model)
        self.plan = plan
        self.spec = spec

    @property
    def _trace(self) -> GridTrace | None:
        return getattr(self._local, "trace", None)


class StageSite:
    """One stage: hooks capture what its score needs, and the last one drops rows and columns."""

    def __init__(self, engine: GridEngine, index: int) -> None:
        self.engine, self.index = engine, index
        self.stage = engine.spec.stages[index]

    def attach(self) -> Iterator[RemovableHandle]:
        """Attach all that this plan needs of the stage."""
        plan, stage = self.engine.plan, self.stage
        needs = plan.required()
        # First of all hooks, so that those of others see what is left, whoever came first.
        yield stage.last.register_forward_hook(self._hook(self._leave), prepend=True)
        if self.index not in plan.drop:
            return
        if "stage entry" in needs:
            yield stage.first.register_forward_pre_hook(self._hook(self._capture_stage_entry))
        if "entry" in needs and stage.shortcut is None:
            yield stage.last.register_forward_pre_hook(self._hook(self._capture_entry))
        if "entry" in needs and stage.shortcut is not None:
            yield stage.shortcut.register_forward_hook(self._hook(self._capture_shortcut))
        if "branch" in needs:
            yield stage.branch.register_forward_hook(self._hook(self._capture_branch))

    def _hook(self, action: Any) -> Hook:
        return Hook(self.engine, action)

    @property
    def _captured(self) -> dict[str, Tensor]:
        """What the hooks of this thread's forward have captured of the stage that runs."""
        local = self.engine._local
        if getattr(local, "captured", None) is None:
            local.captured = {}
        return local.captured

    def _capture_stage_entry(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        if not recomputing():
            self._captured["stage entry"] = args[0]

    def _capture_entry(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        self._captured["entry"] = args[0]

    def _capture_branch(self, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        # A copy: the block adds the shortcut in place.
        self._captured["branch"] = output.clone()

    def _capture_shortcut(self, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        self._captured["entry"] = output

    def _leave(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor | None:
        stage, plan, local = self.index, self.engine.plan, self.engine._local
        if isinstance(output, torch.fx.Proxy):
            raise InputError(
                "torch.fx traces this model symbolically, where no row or column can be chosen; "
                "take features with forward hooks, features_only=True or IntermediateLayerGetter, "
                "or detach() first"
            )
        if not isinstance(output, torch.Tensor) or output.ndim != 4:
            shape = getattr(output, "shape", None)
            kind = type(output).__name__ if shape is None else f"a tensor of shape {list(shape)}"
            raise InputError(f"stage {stage} must return feature maps [B, C, H, W]; got {kind}")
        if torch.jit.is_tracing():
            raise InputError(
                "torch.jit.trace would fix the number of images and the size of the grid in what "
                "it records; use torch.export or torch.onnx.export(..., dynamo=True), or detach() "
                "first"
            )
        drop = [
            plan.leaving(stage, length, f"{what} of stage")
            for length, what in zip(output.shape[2:], ("rows", "columns"), strict=True)
        ]
        if any(drop):
            needs = plan.required()
            refuse_stochastic_depth(plan.score, needs, self.stage.last, f"stage {stage}")
        scores = self._scores(output) if any(drop) else None
        local.captured = {}
        chosen = None
        if scores is not None:
            assert isinstance(plan.reduction, GridReduction)
            chosen = plan.reduction.choose(scores.unflatten(1, output.shape[2:]), *drop)
        # A block that checkpointing runs again may belong to an earlier forward: it records none.
        if not recomputing():
            self._record(output, chosen, scores)
        return None if chosen is None else chosen.apply(output)

    def _scores(self, output: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N"]:
        score = self.engine.plan.score
        snapshot = self._snapshots(output)
        scores = score.rate(snapshot)
        if self.engine._verify(output):
            snapshot.check(scores, f"stage {self.index}: the score {score}")
        return scores

    def _snapshots(self, output: Float[Tensor, "B C H W"]) -> Snapshots:
        captured, needs = self._captured, self.engine.plan.required()
        for need in ("stage entry", "entry", "branch"):
            if need in needs and need not in captured:
                raise InputError(
                    f"{self.engine.plan.score} did not see the {need} of stage {self.index}: "
                    "the spec names another module, or gradient checkpointing runs its last block "
                    "alone (use shift(block) there)"
                )
        moved = {name: features.to(output.device) for name, features in captured.items()}
        entry, branch, first = (moved.get(need) for need in ("entry", "branch", "stage entry"))
        height, width = output.shape[2:]
        if first is not None:
            first = F.adaptive_avg_pool2d(first, (height, width))
        return Snapshots(
            self.index,
            0,
            _tokens(output),
            entry=None if entry is None else _tokens(entry),
            exit=_tokens(output) if "exit" in needs else None,
            branch=None if branch is None else _tokens(branch),
            stage_entry=None if first is None else _tokens(first),
            grid=(height, width),
        )

    def _record(
        self,
        output: Float[Tensor, "B C H W"],
        chosen: GridMap | None,
        scores: Float[Tensor, "B N"] | None,
    ) -> None:
        stage, local = self.index, self.engine._local
        if stage == 0:
            local.trace = GridTrace(output.shape[0], output.device)
        trace = self.engine._trace
        if trace is None or len(trace.grids) != stage:
            raise InputError(f"stage {stage} ran, but not after stage {stage - 1}; check the spec")
        trace.record(stage, output, chosen)
        if scores is not None:
            trace.scores[stage] = scores


def _tokens(features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N C"]:
    """The positions row by row: a view, in either memory format."""
    return features.flatten(2).transpose(1, 2)
