"""The rows of the comparison on a vision-language model: what is done to its visual tokens."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
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
    Shift,
    Temporal,
)
from repshift.vision_language.plan import Keep, VisionLanguagePlan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from repshift.vision_language.compression import VisionLanguageCompression

# 50, 33, 22 and 11 % in whole tokens of an image's 64.
SHARES = (32 / 64, 21 / 64, 14 / 64, 7 / 64)
SEEDS = 5
DENSE = "dense, fused"
LAST_BLOCK = 5  # of the tower


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

    @contextmanager
    def attached(
        self, model: nn.Module, plan: VisionLanguagePlan | None
    ) -> Iterator[VisionLanguageCompression | None]:
        """The model as the row has it, under one of its plans."""
        with ExitStack() as stack:
            if self.renumbered:
                stack.enter_context(counted_anew(model))
            yield stack.enter_context(compress(model, plan)) if plan else None


def rows(shares: tuple[float, ...] = SHARES) -> list[Row]:
    """All rows, dense first."""
    first = [
        Row(DENSE),
        Row("dense, eager", kernel="eager"),
        Row("no visual tokens", 0.0, blind=True),
    ]
    return [*first, *(row for share in shares for row in _at(share)), *horizon(min(shares))]


def drawn(share: float = SHARES[2]) -> list[Row]:
    """The rows that pictures show."""
    shown = ("grid", "random, 5 seeds", "greedy: Keep(share)", "greedy by that shift")
    return [Row(DENSE), *(row for row in _at(share) if row.label in shown)]


def horizon(share: float) -> list[Row]:
    """Random tokens leave after one layer of the decoder, each in turn."""
    return [
        Row(
            f"random after layer {layer}",
            share,
            tuple(
                VisionLanguagePlan(decoder=Plan({layer: 1 - share}, Random(seed)))
                for seed in range(2)
            ),
        )
        for layer in range(5)
    ]


def _at(share: float) -> list[Row]:
    third = share ** (1 / 3)
    greedy = Row("greedy: Keep(share)", share, (_prompt(share),))
    random = tuple(_prompt(share, Random(seed)) for seed in range(SEEDS))
    made = [
        Row("smaller image", share, smaller=share**0.5),
        Row("grid", share, (_prompt(share, Grid()),)),
        Row("random, 5 seeds", share, random),
        greedy,
        Row("greedy, merged", share, (VisionLanguagePlan(prompt=Keep(share, merge=True)),)),
        Row("farthest first (DivPrune)", share, (_prompt(share, Greedy(diversity=100.0)),)),
        Row("redundancy", share, (_prompt(share, Redundancy("tokens")),)),
        Row("relevance to the words", share, (_prompt(share, Relevance()),)),
        Row("shift of the tower's last block", share, (_prompt(share, Shift("block")),)),
        Row("greedy by that shift", share, (_prompt(share, Greedy(Shift("block"))),)),
        Row(
            "column attention of the tower (VisionZip)",
            share,
            (VisionLanguagePlan(tower=Plan({LAST_BLOCK: 1 - share}, ColumnAttention())),),
        ),
        Row(
            "shift inside the tower, block 2",
            share,
            (VisionLanguagePlan(tower=Plan({2: 1 - share}, Shift("block"))),),
        ),
        Row(
            "last query, layer 1 (FastV)",
            share,
            (VisionLanguagePlan(decoder=Plan({1: 1 - share}, LastQuery())),),
        ),
        Row(
            "shift, layers 0, 3 and 4 (V2Drop)",
            share,
            (
                VisionLanguagePlan(
                    decoder=Plan(dict.fromkeys((0, 3, 4), 1 - third), Shift("block"))
                ),
            ),
        ),
        Row(
            "tower, prompt and decoder",
            share,
            (
                VisionLanguagePlan(
                    Plan({2: 1 - third}, Shift("block")),
                    Keep(third**2),
                    Plan({3: 1 - third}, Shift("block")),
                ),
            ),
        ),
        Row(
            "changed since the frame before (EVS)", share, (_prompt(share, Temporal()),), films=True
        ),
        replace(greedy, label="warning: greedy, positions counted anew", renumbered=True),
        Row("warning: random, positions counted anew", share, random[:1], renumbered=True),
    ]
    if share == SHARES[2]:
        made.insert(1, Row("2x2 pooling", 0.25, (_prompt(0.25, Grid()),), pooled=True))
    return made


def _prompt(share: float, score: Any = None) -> VisionLanguagePlan:
    return VisionLanguagePlan(prompt=Keep(share) if score is None else Keep(share, score))


@contextmanager
def counted_anew(model: Any) -> Iterator[None]:
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

    def mean(table: Tensor) -> Tensor:
        cut = table.unflatten(0, (-1, side // 2, 2, side // 2, 2))
        return cut.mean((2, 4), keepdim=True).expand_as(cut).flatten(0, 4)

    made = type(features)(**features)
    made["pooler_output"] = tuple(mean(one) for one in features.pooler_output)
    made["deepstack_features"] = [
        tuple(mean(one) for one in layer) for layer in features.deepstack_features
    ]
    return made
