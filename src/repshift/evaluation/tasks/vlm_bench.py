"""scenes-vlm under every row: what it answers, by kind of question, beside what a prompt costs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F
from tqdm import tqdm

from repshift.evaluation.tasks.vlm_rows import DENSE, pooled
from repshift.evaluation.zoo.scenes.language import KINDS
from repshift.evaluation.zoo.scenes.model import load_scenes
from repshift.evaluation.zoo.scenes.prompt import prompts
from repshift.evaluation.zoo.scenes.scene import CELL
from repshift.measure.bootstrap import paired_interval
from repshift.measure.environment import environment
from repshift.measure.flops import count_flops

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int
    from torch import Tensor, nn

    from repshift.evaluation.tasks.vlm_rows import Row
    from repshift.evaluation.zoo.scenes.held_out import Item
    from repshift.evaluation.zoo.scenes.prompt import Prompts
    from repshift.vision_language.plan import VisionLanguagePlan

BATCH = 100
ORDERS = ("after", "before")  # where the question stands: behind what is seen, or in front


@dataclass
class Figures:
    """Of one row and one order of the prompt; shares, each with its 95 % interval.

    Attributes:
        accuracy: By kind, and ``all``.
        agreement: Share of the answers that are those of the dense model.
        kl: Of the first word of the answer, from the dense model's, in nats.
    """

    accuracy: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    agreement: float = 1.0
    kl: float = 0.0


@dataclass
class Outcome:
    """One row: tokens of an image that reach the last layer, the cost of a prompt, the figures."""

    label: str
    share: float
    tokens: int
    gflops: float
    kernel: str
    plans: list[str]
    figures: dict[str, Figures]


@dataclass
class SceneBench:
    """All rows."""

    outcomes: list[Outcome]
    environment: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


@dataclass
class _Answers:
    """Of all items of one order: what was said, whether it is right, and the first word's odds."""

    said: list[Int[Tensor, "B A"]] = field(default_factory=list)
    right: list[Float[Tensor, " B"]] = field(default_factory=list)
    odds: list[Float[Tensor, "B W"]] = field(default_factory=list)


def bench_scenes(items: Sequence[Item], rows: Sequence[Row]) -> SceneBench:
    """Ask ``items`` in both orders under every row, dense first."""
    models = {kernel: load_scenes(kernel) for kernel in dict.fromkeys(row.kernel for row in rows)}
    batches = {order: _batches(items, order == "before") for order in ORDERS}
    features: dict[tuple[str, int], Any] = {}
    dense: dict[str, _Answers] = {}
    outcomes = []
    for row in tqdm(rows, unit=" rows", delay=1):
        model, figures = models[row.kernel], {}
        for order in ORDERS:
            runs = [
                _ask(model, row, plan, batches[order], order, features)
                for plan in row.plans or (None,)
            ]
            if row.label == DENSE:
                dense[order] = runs[0]
            figures[order] = _figures(row, batches[order], runs, dense[order])
        outcomes.append(_outcome(model, row, items, figures))
    facts = {
        "model": "scenes-vlm",
        "questions of a kind": len(items) // len(KINDS),
    } | environment(torch.device("cpu"), torch.float32, "transformers")
    return SceneBench(outcomes, facts)


def _batches(items: Sequence[Item], early: bool) -> list[tuple[Sequence[Item], bool]]:
    """Items of one kind and with questions of the same length, so that nothing is padded."""
    groups: dict[tuple[str, int], list[Item]] = {}
    for item in items:
        groups.setdefault((item.question.kind, len(item.question.words)), []).append(item)
    return [
        (group[at : at + BATCH], early)
        for group in groups.values()
        for at in range(0, len(group), BATCH)
    ]


def _asked(row: Row, items: Sequence[Item]) -> bool:
    return not row.films or items[0].scenes[0].frames > 1


@torch.inference_mode()
def _ask(
    model: Any,
    row: Row,
    plan: VisionLanguagePlan | None,
    batches: Sequence[tuple[Sequence[Item], bool]],
    order: str,
    features: dict[tuple[str, int], Any],
) -> _Answers:
    answers = _Answers()
    with row.attached(model, plan):
        for number, (items, early) in enumerate(batches):
            if not _asked(row, items):
                continue
            asked, inputs = _given(model, row, items, early, (order, number), features)
            words = asked.answers.shape[1]
            told = model.generate(
                **inputs,
                max_new_tokens=words,
                min_new_tokens=words,
                do_sample=False,
                return_dict_in_generate=True,
                output_logits=True,
            )
            said = told.sequences[:, -words:]
            answers.said.append(said)
            answers.right.append((said == asked.answers).all(1).float())
            answers.odds.append(told.logits[0].float().log_softmax(-1))
    return answers


def _given(
    model: Any,
    row: Row,
    items: Sequence[Item],
    early: bool,
    key: tuple[str, int],
    features: dict[tuple[str, int], Any],
) -> tuple[Prompts, dict[str, Any]]:
    """The inputs; where the row leaves the tower alone, features that were computed once."""
    known = key in features and not row.tower
    asked = prompts(items, early, row.blind, row.smaller, pixels=not known)
    if row.blind or row.tower:
        return asked, asked.inputs
    film = items[0].scenes[0].frames > 1
    modality, pixels = ("video", "pixel_values_videos") if film else ("image", "pixel_values")
    inputs = dict(asked.inputs)
    if not known:
        read = getattr(model.model, f"get_{modality}_features")
        features[key] = read(inputs.pop(pixels), inputs[f"{modality}_grid_thw"])
    seen = features[key]
    if row.pooled:
        seen = pooled(seen, items[0].scenes[0].edge // CELL)
    return asked, inputs | {"mm_encoder_outputs": {modality: seen}}


def _figures(
    row: Row,
    batches: Sequence[tuple[Sequence[Item], bool]],
    runs: Sequence[_Answers],
    dense: _Answers,
) -> Figures:
    kinds = [items[0].question.kind for items, _ in batches]
    at = [place for place, (items, _) in enumerate(batches) if _asked(row, items)]
    right = [torch.stack(each).mean(0) for each in zip(*(run.right for run in runs), strict=True)]
    figures = Figures()
    for kind in (*KINDS, "all"):
        own = [one for place, one in zip(at, right, strict=True) if kind in ("all", kinds[place])]
        if own:
            every = torch.cat(own)
            figures.accuracy[kind] = paired_interval(every, torch.zeros_like(every))
    same, far = [], []
    for run in runs:
        for place, said, odds in zip(at, run.said, run.odds, strict=True):
            same.append((said == dense.said[place]).all(1).float())
            truth = dense.odds[place]
            far.append(F.kl_div(odds, truth, reduction="none", log_target=True).sum(1))
    figures.agreement, figures.kl = torch.cat(same).mean().item(), torch.cat(far).mean().item()
    return figures


@torch.inference_mode()
def _outcome(
    model: nn.Module, row: Row, items: Sequence[Item], figures: dict[str, Figures]
) -> Outcome:
    """What one prompt costs: about one image, or a film where the row is for films alone."""
    item = next(item for item in items if _asked(row, [item]))
    asked = prompts([item], blind=row.blind, smaller=row.smaller)
    plan = row.plans[0] if row.plans else None
    with row.attached(model, plan) as done:
        flops, kernel = count_flops(lambda: model(**asked.inputs))
        tokens = int((asked.inputs.get("mm_token_type_ids", torch.zeros(1)) > 0).sum())
        if done is not None:
            tokens = list(done.counts[0].values())[-1]
    plans = [plan.to_json() for plan in row.plans]
    return Outcome(row.label, row.share, tokens, flops / 1e9, kernel, plans, figures)
