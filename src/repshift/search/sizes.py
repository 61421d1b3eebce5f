"""A search at several sizes of the input (pixels, frames) and of fewer tokens, both at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from repshift.adapters import EncoderSpec, describe
from repshift.errors import InputError
from repshift.input_frames import has_frames, thin_videos, thinned_with
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
    """A model for images of ``side`` pixels, or for ``frames`` frames of a video.

    ``prepare`` makes them of those of full size.
    """

    model: nn.Module
    spec: EncoderSpec
    side: int | None = None
    frames: int | None = None

    @property
    def full(self) -> bool:
        return self.side is None and self.frames is None

    def of(self, plan: Plan) -> Plan:
        """The plan, for this size."""
        return replace(plan, input_size=self.side, frames=self.frames)

    def prepare(self, images: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        if self.frames is not None:
            return thin_videos(images, self.frames)
        return images if self.side is None else resize_images(images, self.side)

    def meter(
        self, images: Float[Tensor, "B ..."], like: FidelityMeter, batch_size: int
    ) -> FidelityMeter:
        """How far plans are from the dense model at full size, which ``like`` has run."""
        if self.full:
            return like
        images = self.prepare(images)
        return FidelityMeter(self.model, self.spec, images, like.objective, batch_size, like.dense)

    def cost(self, like: AnyCost) -> AnyCost:
        """What plans cost, as a share of the dense model at full size."""
        if self.full:
            return like
        return type(like)(self.model, self.spec, self.prepare(like.images), like.memo, like)


def smaller_sizes(
    model: nn.Module, images: Float[Tensor, "N ..."], spec: EncoderSpec | None = None
) -> list[Sized]:
    """The model at all smaller sizes that it takes, the largest first; none where it takes none.

    With a ``spec``, that of a model of the user's own, only of videos fewer frames.
    """
    if images.ndim == 5 and has_frames(model):
        spec, of = spec or _spec(model), images.shape[1]
        counts = range(of - 1, 0, -1)
        return [Sized(*thinned_with(model, spec, count, of), frames=count) for count in counts]
    if spec is not None or images.ndim != 4 or images.shape[-1] != images.shape[-2]:
        return []
    try:
        sides = image_sides(model, images.shape[-1])
    except InputError:
        return []
    sized = []
    for side in reversed(sides[len(sides) // 3 :]):
        twin = resized(model, side)
        sized.append(Sized(twin, _spec(twin), side))
    return sized


def _spec(model: nn.Module) -> EncoderSpec:
    spec = describe(model)
    assert isinstance(spec, EncoderSpec)
    return spec


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
    images: Float[Tensor, "N ..."],
    share: float,
) -> Found:
    """At ``share`` of the dense cost: the best closed form of all sizes, then exchanges."""
    starts, refused = [], None
    for sized in (own, *worth_reducing(smaller, full.cost, share)):
        search = full if sized is own else search_at(full, sized, images)
        try:
            starts.append((sized, search, search.best_start(share)))
        except InputError as error:  # even one patch at the end costs more
            refused = refused or error
    if not starts:
        assert refused is not None
        raise refused
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
    images: Float[Tensor, "N ..."],
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


def search_at(full: Search, sized: Sized, images: Float[Tensor, "N ..."]) -> Search:
    """The same search at another size."""
    batch_size = len(full.meter.batches[0])
    return Search(
        sized.meter(images, full.meter, batch_size),
        sized.cost(full.cost),
        full.memo,
        full.progress,
        [sized.of(plan) for plan in full.methods],
    )


def dense_at(search: Search, sized: Sized) -> Trial:
    """The dense model at this size."""
    return search.rate(sized.of(Plan({})))


def worth_reducing(sized: Sequence[Sized], cost: CostModel, share: float) -> list[Sized]:
    """A few of the sizes at which the dense model costs more than ``share``, evenly spread."""
    costs = {one: _dense_share(one, cost) for one in sized}
    above = [one for one in sized if share * 1.05 < costs[one] < 0.97]
    places = [round(part * (len(above) - 1) / (TRIED - 1)) for part in range(TRIED)]
    return [above[place] for place in sorted(set(places))] if above else []


def nearest_dense(sized: Sequence[Sized], cost: CostModel, share: float) -> Sized | None:
    """The size at which the dense model, really run, costs most nearly ``share``."""
    if not sized:
        return None

    @cache
    def miss(at: int) -> float:
        return abs(sized[at].cost(cost).measure(sized[at].of(Plan({}))) - share)

    # From where the estimate puts it, size by size to the nearest.
    at = min(range(len(sized)), key=lambda at: abs(_dense_share(sized[at], cost) - share))
    while True:
        near = range(max(at - 1, 0), min(at + 2, len(sized)))
        best = min(near, key=miss)
        if best == at:
            return sized[at]
        at = best


def _dense_share(sized: Sized, cost: CostModel) -> float:
    """About what the dense model costs at this size, by the number of its patches alone."""
    if sized.frames is not None:
        part = sized.frames / cost.images.shape[1]
    else:
        assert sized.side is not None
        part = (sized.side / cost.images.shape[-1]) ** 2
    return cost.with_patches(round(cost.patches * part))
