"""``repshift.search_vision_language``: a plan for a vision-language model, found on prompts."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from repshift.adapters import describe
from repshift.compress import compress
from repshift.errors import InputError
from repshift.measure.bootstrap import paired_interval
from repshift.measure.digest import digest
from repshift.measure.environment import libraries, processor, versions
from repshift.search.memo import Memo
from repshift.search.place_search import PlaceSearch, PromptTrial
from repshift.search.places import candidates
from repshift.search.prompt_meter import PromptMeter, check_prompts, next_word
from repshift.search.search_plan import check_target
from repshift.vision_language.families import parts_of
from repshift.vision_language.plan import Keep, VisionLanguagePlan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import nn

    from repshift.search.candidates import Progress
    from repshift.vision_language.families import Parts


@dataclass(frozen=True)
class VisionLanguageSearchResult:
    """A found plan: ``plan``, what was tried on the way, and where it comes from.

    ``provenance`` holds model, data digest, seed, versions, and the promised and measured figures;
    the plan carries it into its file.
    """

    plan: VisionLanguagePlan
    tried: list[PromptTrial]
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "plan", self.plan.found(self.provenance))

    def summary(self) -> str:
        """The result in a line."""
        facts, kept = self.provenance, self.provenance["held_out"]
        time = facts.get("measured_speedup")
        return (
            f"{self.plan}: {100 * facts['flops']:.1f} % of the dense FLOPs"
            + (f", {time:.2f}x as fast to the first word" if time else "")
            + f"; on prompts that the search did not see KL {kept['kl']:.4f} (95 %: "
            f"{kept['from']:.4f} to {kept['to']:.4f}), same word {100 * kept['fidelity']:.1f} %"
        )

    def to_json(self) -> str:
        """A plan's file with its provenance; ``VisionLanguagePlan.from_json`` reads it."""
        return self.plan.to_json()


def search_vision_language(
    model: nn.Module,
    prompts: Sequence[Mapping[str, Any]],
    *,
    flops: float | None = None,
    speedup: float | None = None,
    fidelity: float | None = None,
    seed: int = 0,
    name: str | None = None,
    state: Path | None = None,
    progress: Progress | None = None,
) -> VisionLanguageSearchResult:
    """Find the plan for tower, prompt and decoder that stays closest to the dense model at a cost.

    One target: ``flops``, the share of the FLOPs of the dense model up to the first word, tower
    included; ``speedup``, of the time to the first word on this device; or ``fidelity``, the least
    share of prompts with the dense model's most likely next word. The first prompt is counted and
    timed. The dense model is the teacher: the loss is the mean KL of the next word from what it
    expects. Nothing is trained and no answer is read.

    ``prompts`` are what a processor gives, one prompt each or a batch that is padded on the left.
    Half of them, drawn by ``seed``, are searched on: every combination of a few drops in the tower
    and the decoder, with as much of the prompt as the target allows, by successive halving. The
    other half only checks the result. What the model refuses is left out. ``state`` is a file that
    lets a stopped search go on; delete it once the result is written. ``progress`` is called with a
    line about every plan that was tried.

    Raises ``InputError`` if the target is not one or cannot be reached, or if the model refuses
    every plan.
    """
    # torch's counter of FLOPs brings half of setuptools along.
    from repshift.search.prefill_cost import PrefillFlops, PrefillTime

    target = check_target(flops, speedup, fidelity)
    check_prompts(prompts)
    parts = parts_of(model)
    first = prompts[0]
    facts = {
        "model": name or type(model).__name__,
        "weights": digest(model.state_dict().values()),
        "prompts": len(prompts),
        "data": digest(_tensors(prompts)),
        "target": target,
        "seed": seed,
        "device": processor(first["input_ids"].device),
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "versions": versions(*libraries(model)),
    }
    table = candidates(_tower_depth(parts), len(parts.layers))
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(seed)).tolist()
    half = len(prompts) // 2
    seen, unseen = ([prompts[at] for at in part] for part in (order[half:], order[:half]))
    meter = PromptMeter(model, seen)
    # What the dense model gives tells of its code and its settings, which its weights do not.
    made_by = {"candidates": [plan.identity for plan in table], "outputs": digest(meter.dense)}
    memo = Memo(state, facts | made_by)
    counted = PrefillFlops(model, first, memo)
    timed = PrefillTime(model, first, memo) if speedup is not None else None
    tokens = _largest_image(model, first)
    search = PlaceSearch(table, tokens, meter, counted, memo, timed, progress)
    if fidelity is not None:
        best = search.least_cost(fidelity)
    else:
        best = search.at_cost(flops if flops is not None else 1 / (speedup or 1))[0]

    check = PromptMeter(model, unseen)
    judged = memo(
        f"{best.plan.identity}, held out", lambda: check.compare(best.plan, 0, len(unseen))
    )
    losses = torch.tensor(judged[0])
    mean, low, high = paired_interval(losses, torch.zeros_like(losses))
    figures: dict[str, Any] = {
        "flops": counted(best.plan),
        "promised": {"kl": best.loss, "fidelity": best.fidelity},
        "held_out": {"kl": mean, "from": low, "to": high, "fidelity": fmean(judged[1])},
    }
    if timed is not None:
        figures["measured_speedup"] = 1 / timed(best.plan)
    return VisionLanguageSearchResult(best.plan, list(search.tried.values()), facts | figures)


def _tensors(prompts: Sequence[Mapping[str, Any]]) -> list[torch.Tensor]:
    return [one for prompt in prompts for one in prompt.values() if isinstance(one, torch.Tensor)]


def _tower_depth(parts: Parts) -> int:
    """How many blocks the tower has; 0 if nothing can be dropped in it."""
    try:
        return len(describe(getattr(parts.core, parts.family.tower)).blocks)
    except InputError:
        return 0


def _largest_image(model: nn.Module, prompt: Mapping[str, Any]) -> int:
    """How many tokens the largest image, or frame of a video, of a prompt has."""
    with compress(model, VisionLanguagePlan(prompt=Keep(1.0))) as compression:
        with torch.inference_mode():
            next_word(model, prompt)
        layout = compression._last().layout
    if layout is None:
        raise InputError("the first prompt, by which costs are counted, has no image; give one")
    return max(layout.lengths)
