"""What the score sees and what is left: one strip of panels for an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from repshift.adapters import describe
from repshift.compress import compress
from repshift.evaluation.report.names import title
from repshift.input_size import resize_images
from repshift.plan import Plan
from repshift.reductions.base import Merging
from repshift.resnet.spec import ResNetSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int, Shaped
    from torch import Tensor

    from repshift.adapters.spec import EncoderSpec
    from repshift.compression import Compression
    from repshift.evaluation.zoo.load import LoadedModel

GREY = 0.82  # what a token that left is painted with


def pictures(
    loaded: LoadedModel,
    spec: EncoderSpec | ResNetSpec,
    plan: Plan,
    images: Float[Tensor, "B C H W"],
    names: Sequence[str],
) -> list[Figure]:
    """``token_pictures``, or of a ResNet ``grid_pictures``, at the size that the plan is for.

    None of images whose patches stand on no known grid.
    """
    if plan.input_size is not None:
        loaded = loaded.at(plan.input_size)
        spec, images = describe(loaded.model), resize_images(images, plan.input_size)
    if isinstance(spec, ResNetSpec):
        return grid_pictures(loaded, spec, plan, images, names)
    return token_pictures(loaded, spec, plan, images, names) if all(loaded.grid) else []


def token_pictures(
    loaded: LoadedModel,
    spec: EncoderSpec,
    plan: Plan,
    images: Float[Tensor, "B C H W"],
    names: Sequence[str],
) -> list[Figure]:
    """For each image: the photo, its scores at the first reduction, the survivors of each.

    Merged tokens appear in the mean colour of their group.

    Where the model draws maps from its tokens, also the map of the dense model and the one drawn
    from the survivors after ``restore``.
    """
    model = loaded.model

    def draw(tokens: Float[Tensor, "B N C"]) -> Float[Tensor, "B H W"]:
        assert loaded.decode is not None
        # The encoder may have been moved to another device or precision; its decoder was not.
        return loaded.decode(tokens.float().cpu())

    blocks = plan.acting
    patches = _patches(spec, loaded.grid)
    with torch.inference_mode():
        dense = draw(_run(loaded, images)) if loaded.decode else None
        with compress(model, plan, spec) as done:
            tokens = _run(loaded, images)
            kept = {block: done.kept_after(block).cpu() for block in blocks}
            lengths = {block: done.lengths_after(block).tolist() for block in blocks}
            groups = {block: _groups(done, block)[:, patches] for block in blocks}
            restored = draw(done.restore(tokens)) if loaded.decode else None
            scores = done.scores
    figures = []
    for row, name in enumerate(names):
        photo = loaded.picture(images[row])
        panels: list[tuple[str, Tensor, dict[str, object]]] = [(name, photo, {})]
        if blocks and blocks[0] in scores:
            heat = scores[blocks[0]][row, patches].float().cpu().view(loaded.grid)
            panels.append((f"{plan.score} at block {blocks[0]}", heat, {"cmap": "magma"}))
        for block in blocks:
            if isinstance(plan.reduction, Merging):
                left = _blend(photo, groups[block][row], loaded.grid)
            else:
                left = paint(photo, kept[block][row], patches, loaded.grid)
            panels.append((f"{lengths[block][row]} tokens kept after block {block}", left, {}))
        for output, maps in (("dense output", dense), ("restored output", restored)):
            if maps is not None:
                panels.append((output, maps[row], {"cmap": "gray", "vmin": 0, "vmax": 1}))
        figures.append(strip(panels))
    return figures


def grid_pictures(
    loaded: LoadedModel,
    spec: ResNetSpec,
    plan: Plan,
    images: Float[Tensor, "B C H W"],
    names: Sequence[str],
) -> list[Figure]:
    """For each image: the photo, its scores at the first stage that loses rows and columns,
    what is left.

    Grey is what left, in the full grid of the stage (see ``ResNetCompression.kept_after``).
    """
    with torch.inference_mode():
        with compress(loaded.model, Plan({}), spec) as dense:
            _run(loaded, images)
        with compress(loaded.model, plan, spec) as done:
            _run(loaded, images)
    stages = [stage for stage in plan.drop if stage in done.scores]
    figures = []
    for row, name in enumerate(names):
        photo = loaded.picture(images[row])
        panels: list[tuple[str, Tensor, dict[str, object]]] = [(name, photo, {})]
        for stage in stages[:1]:
            heat = done.scores[stage][row].float().cpu().view(dense.grids[stage])
            panels.append((f"{plan.score} at stage {stage}", heat, {"cmap": "magma"}))
        for stage in stages:
            kept = done.kept_after(stage)[row].flatten().cpu()
            rows, columns = done.grids[stage]
            patches = torch.arange(dense.grids[stage][0] * dense.grids[stage][1])
            left = paint(photo, kept, patches, dense.grids[stage])
            panels.append((f"{rows} x {columns} kept after stage {stage}", left, {}))
        figures.append(strip(panels))
    return figures


def _run(loaded: LoadedModel, images: Tensor) -> Any:
    """The tokens where something is drawn from them; else what the model gives."""
    model: Any = loaded.model
    given = images.to(next(model.parameters()))
    return model.forward_features(given) if loaded.decode else model(given)


def _patches(spec: EncoderSpec, grid: tuple[int, int]) -> Int[Tensor, " P"]:
    """Where the patches stand in the dense sequence."""
    count = grid[0] * grid[1]
    places = torch.arange(spec.prefix_tokens, spec.prefix_tokens + count + len(spec.inner_tokens))
    return places[~torch.isin(places, torch.tensor(spec.inner_tokens, dtype=torch.long))]


def _groups(done: Compression, block: int) -> Int[Tensor, "B N"]:
    """For every token, the number of the one that stands for it after ``block``."""
    batch, count = done.kept_after(block).shape
    numbers = torch.arange(count, device=done.kept_after(block).device).expand(batch, -1)
    return done.restore(numbers[..., None], block)[..., 0].cpu()


def paint(
    photo: Float[Tensor, "H W 3"],
    kept: Int[Tensor, " K"],
    patches: Int[Tensor, " P"],
    grid: tuple[int, int],
) -> Float[Tensor, "H W 3"]:
    """The photo, grey where a token left."""
    shown = _enlarge(torch.isin(patches, kept).view(*grid, 1), photo)
    return torch.where(shown, photo, torch.full_like(photo, GREY))


def _blend(
    photo: Float[Tensor, "H W 3"], group: Int[Tensor, " P"], grid: tuple[int, int]
) -> Float[Tensor, "H W 3"]:
    """The photo in patches, those that one token stands for in their mean colour."""
    colours = F.adaptive_avg_pool2d(photo.permute(2, 0, 1), grid).flatten(1).T
    size = torch.bincount(group)
    summed = torch.zeros(len(size), 3).index_add(0, group, colours)
    mean = summed / size.clamp_min(1)[:, None]
    return _enlarge(mean[group].view(*grid, 3), photo)


def _enlarge(patches: Shaped[Tensor, "h w c"], photo: Tensor) -> Shaped[Tensor, "H W c"]:
    height, width, _ = photo.shape
    rows = torch.arange(height) * patches.shape[0] // height
    columns = torch.arange(width) * patches.shape[1] // width
    return patches[rows][:, columns]


def strip(panels: list[tuple[str, Tensor, dict[str, object]]]) -> Figure:
    """Panels side by side, each with a title, its pixels and how they are drawn."""
    figure, places = side_by_side(len(panels), 2.6, 2.9)
    for axes, (name, pixels, style) in zip(places, panels, strict=True):
        axes.imshow(pixels.numpy(), **style)
        title(axes, name, size=9)
    return figure


def side_by_side(count: int, width: float, height: float) -> tuple[Figure, list[Any]]:
    """A figure and its ``count`` places for pictures, of these inches each, without axes."""
    figure = Figure(figsize=(width * count, height), layout="constrained")
    # Ticks take half of the time to draw, whether they are seen or not.
    bare = {"xticks": [], "yticks": []}
    places = list(figure.subplots(1, count, squeeze=False, subplot_kw=bare)[0])
    for axes in places:
        axes.axis("off")
    return figure, places
