"""A search at several sizes of the images: fewer pixels and fewer tokens, whichever loses less."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from repshift.adapters import EncoderSpec, describe
from repshift.errors import InputError
from repshift.input_size import image_sides, resize_images, resized
from repshift.plan import Plan
from repshift.search.candidates import Search, Trial
from repshift.search.fidelity_meter import FidelityMeter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from torch import Tensor, nn

    from repshift.search.cost_model import CostModel

AnyCost = TypeVar("AnyCost", bound="CostModel")

# At so many smaller sizes tokens are dropped too.
TRIED = 3


@dataclass(frozen=True, eq=False)
class Sized:
    """A model for images of ``side`` pixels; ``prepare`` makes them of those of full size."""

    model: nn.Module
    spec: EncoderSpec
    side: int | None = None

    def prepare(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        return images if self.side is None else resize_images(images, self.side)

    def meter(
        self, images: Float[Tensor, "B C H W"], like: FidelityMeter, batch_size: int
    ) -> FidelityMeter:
        """How far plans are from the dense model at full size, which ``like`` has run."""
        if self.side is None:
            return like
        images = self.prepare(images)
        return FidelityMeter(self.model, self.spec, images, like.objective, batch_size, like.dense)

    def cost(self, like: AnyCost) -> AnyCost:
        """What plans cost, as a share of the dense model at full size."""
        if self.side is None:
            return like
        return type(like)(self.model, self.spec, self.prepare(like.images), like.memo, like)


def smaller_sizes(model: nn.Module, images: Float[Tensor, "N C H W"]) -> list[Sized]:
    """The model at all smaller sizes that it takes, the largest first; none where it takes none."""
    if images.ndim != 4 or images.shape[-1] != images.shape[-2]:
        return []
    try:
        sides = image_sides(model, images.shape[-1])
    except InputError:
        return []
    sized = []
    for side in reversed(sides[len(sides) // 3 :]):
        twin = resized(model, side)
        spec = describe(twin)
        assert isinstance(spec, EncoderSpec)
        sized.append(Sized(twin, spec, side))
    return sized


@dataclass(frozen=True)
class Found:
    """The best closed form and what became of it, at the size where it was found."""

    sized: Sized
    search: Search
    trials: list[Trial]
    others: Sequence[Search]

    @property
    def tried(self) -> list[Trial]:
        return [trial for search in (*self.others, self.search) for trial in search.tried]


def at_cost(
    full: Search,
    own: Sized,
    smaller: Sequence[Sized],
    images: Float[Tensor, "N C H W"],
    share: float,
) -> Found:
    """At ``share`` of the dense cost: the best closed form of all sizes, then exchanges."""
    starts = [(own, full, full.best_start(share))]
    for sized in worth_reducing(smaller, full.cost, share):
        search = search_at(full, sized, images)
        try:
            starts.append((sized, search, search.best_start(share)))
        except InputError:  # even one patch at the end costs more
            continue
    sized, search, start = min(starts, key=lambda one: one[2].loss)
    better = search.improved(start, share)
    others = [other for _, other, _ in starts if other is not search]
    dense = nearest_dense(smaller, full.cost, share)
    if dense is not None:
        others.append(search_at(full, dense, images))
        dense_at(others[-1], dense)
    return Found(sized, search, [start] if better is None else [start, better], others)


def least_cost(
    full: Search,
    own: Sized,
    smaller: Sequence[Sized],
    images: Float[Tensor, "N C H W"],
    fidelity: float,
) -> Found:
    """The cheapest whose fidelity is at least ``fidelity``, at the sizes where dense has it."""
    found = [(own, full, full.least_cost(fidelity))]
    for sized in worth_reducing(smaller, full.cost, found[0][2].share):
        search = search_at(full, sized, images)
        if dense_at(search, sized).fidelity < fidelity:
            break
        found.append((sized, search, search.least_cost(fidelity)))
    sized, search, best = min(found, key=lambda one: one[2].share)
    return Found(sized, search, [best], [other for _, other, _ in found if other is not search])


def search_at(full: Search, sized: Sized, images: Float[Tensor, "N C H W"]) -> Search:
    """The same search at another size."""
    batch_size = len(full.meter.batches[0])
    return Search(
        sized.meter(images, full.meter, batch_size),
        sized.cost(full.cost),
        full.memo,
        full.progress,
        [replace(plan, input_size=sized.side) for plan in full.methods],
    )


def dense_at(search: Search, sized: Sized) -> Trial:
    """The dense model at this size."""
    return search.rate(Plan({}, input_size=sized.side))


def worth_reducing(sized: Sequence[Sized], cost: CostModel, share: float) -> list[Sized]:
    """A few of the sizes at which the dense model costs more than ``share``, evenly spread."""
    costs = {one: _dense_share(one, cost) for one in sized}
    above = [one for one in sized if share * 1.05 < costs[one] < 0.97]
    places = [round(part * (len(above) - 1) / (TRIED - 1)) for part in range(TRIED)]
    return [above[place] for place in sorted(set(places))] if above else []


def nearest_dense(sized: Sequence[Sized], cost: CostModel, share: float) -> Sized | None:
    """The size at which the dense model costs most nearly ``share``."""
    return min(sized, key=lambda one: abs(_dense_share(one, cost) - share), default=None)


def _dense_share(sized: Sized, cost: CostModel) -> float:
    """What the dense model costs at this size, by the number of its patches."""
    assert sized.side is not None
    full = cost.images.shape[-1]
    return cost.with_patches(round(cost.patches * (sized.side / full) ** 2))
