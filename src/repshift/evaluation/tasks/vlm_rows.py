"""The rows of the comparison on a vision-language model: what is done to its visual tokens."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from repshift.compress import compress
from repshift.plan import Plan
from repshift.scores import (
    ColumnAttention,
    Greedy,
    Grid,
    LastQuery,
    Random,
    Redundancy,
    Relevance,
    Score,
    Shift,
    Temporal,
)
from repshift.vision_language.plan import Keep, VisionLanguagePlan

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from torch import Tensor, nn

    from repshift.vision_language.compression import VisionLanguageCompression

# 50, 33, 22 and 11 % in whole tokens of the 64 of an image of scenes-vlm.
SHARES = (32 / 64, 21 / 64, 14 / 64, 7 / 64)
SEEDS = 5
DENSE = "dense, fused"
DEFAULT = "Keep(share)"


@dataclass(frozen=True)
class Row:
    """One way to see fewer tokens.

    Attributes:
        label: What it is called.
        share: Of the visual tokens, those it keeps to the end.
        plans: One, or one a seed, whose results are averaged; none leaves the model dense.
        kernel: Of the attention.
        blind: No visual token at all.
        smaller: The side of the images, as a share.
        pooled: Two by two cells become their mean before the plan acts.
        renumbered: Positions are counted anew after tokens left, which no plan does.
        films: Only asked about films.
    """

    label: str
    share: float = 1.0
    plans: tuple[VisionLanguagePlan, ...] = ()
    kernel: str = "sdpa"
    blind: bool = False
    smaller: float = 1.0
    pooled: bool = False
    renumbered: bool = False
    films: bool = False

    @property
    def tower(self) -> bool:
        """Whether the features are others than those of the dense tower."""
        of_tower = any(
            plan.tower is not None or (plan.prompt is not None and plan.prompt.of_tower)
            for plan in self.plans
        )
        return of_tower or self.smaller != 1.0 or self.kernel != "sdpa"

    def identity(self, plan: VisionLanguagePlan | None) -> list[Any]:
        """By what the answers under one of its plans are found again."""
        how = [self.kernel, self.blind, self.smaller, self.pooled, self.renumbered, self.films]
        return [None if plan is None else plan.identity, *how]

    @contextmanager
    def attached(
        self, model: nn.Module, plan: VisionLanguagePlan | None
    ) -> Generator[VisionLanguageCompression | None]:
        """The model as the row has it, under one of its plans."""
        with ExitStack() as stack:
            if self.renumbered:
                stack.enter_context(counted_anew(model))
            yield stack.enter_context(compress(model, plan)) if plan else None


@dataclass(frozen=True)
class Depth:
    """How many blocks the tower has up to where features are taken, and layers the decoder."""

    tower: int
    decoder: int


def rows(depth: Depth, shares: Sequence[float] = SHARES) -> list[Row]:
    """Those that every model has, dense first."""
    first = [
        Row(DENSE),
        Row("dense, eager", kernel="eager"),
        Row("no visual tokens", 0.0, blind=True),
    ]
    return [*first, *(row for share in shares for row in _at(depth, share))]


def checks(depth: Depth, films: bool = True, shares: Sequence[float] = SHARES) -> list[Row]:
    """Rows of scenes alone, which tell whether what is known of pruning is true of the model."""
    made = [Row("smaller image", (7 / 8) ** 2, smaller=7 / 8)]
    made.append(Row("2x2 pooling", 0.25, (_pruned(0.25, Grid()),), pooled=True))
    for share in shares:
        keep, random = VisionLanguagePlan(prompt=Keep(share)), _pruned(share, Random(0))
        made += [
            Row(f"warning: {DEFAULT}, positions counted anew", share, (keep,), renumbered=True),
            Row("warning: random, positions counted anew", share, (random,), renumbered=True),
        ]  # fmt: skip
        if films:
            changed = (_pruned(share, Temporal()),)
            made.append(Row("changed since the frame before (EVS)", share, changed, films=True))
    share = min(shares)
    layers = sorted({depth.decoder * fifth // 5 for fifth in range(5)})
    for layer in layers:
        plans = tuple(_decoder({layer: 1 - share}, Random(seed)) for seed in range(2))
        made.append(Row(f"random after layer {layer}", share, plans))
    return made


def found(label: str, plan: VisionLanguagePlan) -> Row:
    """A plan of the user's, such as one that was searched for."""
    return Row(label, 1.0, (plan,))


def drawn(depth: Depth, share: float = SHARES[2]) -> list[Row]:
    """The rows that pictures show."""
    shown = ("grid", "random, 5 seeds", DEFAULT, "shift of the tower's last block")
    return [Row(DENSE), *(row for row in _at(depth, share) if row.label in shown)]


def _at(depth: Depth, share: float) -> list[Row]:
    third, half = share ** (1 / 3), share**0.5
    early = max(1, depth.decoder // 14)  # after the second of 28 or 32 layers, as FastV
    # Of 32 layers 3, 17 and 22, as V2Drop.
    spread = sorted({depth.decoder * layer // 32 for layer in (3, 17, 22)})
    each = 1 - share ** (1 / len(spread))
    inside = depth.tower // 3
    # Half of the layers have carried the question to the last word.
    heard = Plan({depth.decoder // 2: 1 - third}, LastQuery())

    def prompt(*given: Any, merge: bool = True) -> tuple[VisionLanguagePlan, ...]:
        return (VisionLanguagePlan(prompt=Keep(share, *given, merge=merge)),)

    return [
        Row("smaller image", share, smaller=half),
        Row("grid", share, prompt(Grid(), merge=False)),
        Row("random, 5 seeds", share, tuple(_pruned(share, Random(at)) for at in range(SEEDS))),
        Row("random, merged", share, prompt(Random())),
        Row(DEFAULT, share, prompt()),
        Row("farthest first, pruned (DivPrune)", share, prompt(merge=False)),
        Row("discounted once, merged", share, prompt(Greedy(diversity=1.0))),
        Row("redundancy", share, prompt(Redundancy("tokens"), merge=False)),
        Row("relevance to the words", share, prompt(Relevance(), merge=False)),
        Row("shift of the tower's last block", share, prompt(Shift("block"), merge=False)),
        Row("shift of the tower's last block, merged", share, prompt(Shift("block"))),
        Row("column attention of the tower (VisionZip)", share,
            (_tower({depth.tower - 1: 1 - share}, ColumnAttention()),)),
        Row("shift inside the tower", share, (_tower({inside: 1 - share}, Shift("block")),)),
        Row("last query (FastV)", share, (_decoder({early: 1 - share}, LastQuery()),)),
        Row("shift in three layers (V2Drop)", share,
            (_decoder(dict.fromkeys(spread, each), Shift("block")),)),
        Row("prompt and decoder", share,
            (VisionLanguagePlan(None, Keep(third**2), heard),)),
        Row("tower, prompt and decoder", share,
            (VisionLanguagePlan(
                Plan({inside: 1 - third}, Shift("block")), Keep(third**2), heard
            ),)),
    ]  # fmt: skip


def _pruned(share: float, score: Score) -> VisionLanguagePlan:
    return VisionLanguagePlan(prompt=Keep(share, score, merge=False))


def _tower(drop: dict[int, float], score: Score) -> VisionLanguagePlan:
    return VisionLanguagePlan(tower=Plan(drop, score))


def _decoder(drop: dict[int, float], score: Score) -> VisionLanguagePlan:
    return VisionLanguagePlan(decoder=Plan(drop, score))


@contextmanager
def counted_anew(model: Any) -> Generator[None]:
    """The tokens of a prompt have the positions 0, 1, 2 and so on, and words go on behind them."""
    missing = 0

    def renumber(_: nn.Module, args: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        nonlocal missing
        stream, positions = args
        count = positions.shape[-1]
        if count > 1:
            missing = int(positions.max()) + 1 - count
            return stream, torch.arange(count).expand_as(positions)
        return stream, positions - missing

    handle = model.model.language_model.rotary_emb.register_forward_pre_hook(renumber)
    try:
        yield
    finally:
        handle.remove()


def pooled(features: Any, side: int) -> Any:
    """Features of grids of ``side`` cells a side, each of two by two cells with their mean."""

    def mean(table: Any) -> Any:
        if isinstance(table, tuple | list):
            return type(table)(mean(one) for one in table)
        cut = table.flatten(0, -2).unflatten(0, (-1, side // 2, 2, side // 2, 2))
        return cut.mean((2, 4), keepdim=True).expand_as(cut).reshape(table.shape)

    made = type(features)(**features)
    for name in {"pooler_output", "deepstack_features"} & set(made):
        made[name] = mean(made[name])
    return made
