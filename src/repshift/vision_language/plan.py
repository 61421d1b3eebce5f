"""A plan for a vision-language model: what is dropped in the tower, prompt and decoder."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from repshift.errors import InputError
from repshift.files import write_text
from repshift.method import from_dict
from repshift.plan import Plan
from repshift.plan_text import code_of, read_file
from repshift.reductions import Merge, Prune, Reduction
from repshift.registry import registered
from repshift.scores import Greedy, Score

# What a score can read of the prompt, and of a layer of the decoder without a map.
_PROMPT = frozenset({"cells", "frame before", "text"})
_TOWER = frozenset({"entry", "middle", "exit", "keys"})
_DECODER = frozenset({"entry", "middle", "exit", "keys", "last query"})


@dataclass(frozen=True)
class Keep:
    """How many tokens of every image reach the language model, and which.

    Attributes:
        amount: A share above 0 and up to 1 of the tokens of each image (of each frame of a video),
            rounded, or a number of them. At least one stays.
        score: The highest are kept. A score of what a block does, such as ``Shift("block")``, is
            recorded at the last block of the tower that the features are taken from.
        merge: Whether those that leave are merged into the most similar kept token, which then
            counts for as many in the attention of every layer; otherwise they are pruned, as they
            must be under FlashAttention 2.

    The default keeps the tokens farthest from each other and merges the rest into them: it is the
    best over budgets and kinds of questions (docs/results/scenes-vlm.md).
    """

    amount: float | int
    score: Score = field(default_factory=Greedy)
    merge: bool = True

    def __post_init__(self) -> None:
        amount = self.amount
        number = isinstance(amount, int | float) and not isinstance(amount, bool)
        if not number or not (0 < amount <= 1 if isinstance(amount, float) else amount >= 1):
            raise InputError(
                f"Keep takes {amount!r}; expected a share above 0.0 and up to 1.0 of each image's "
                "tokens, such as 0.25, or a number of tokens from 1 up"
            )
        if not isinstance(self.score, Score):
            raise InputError(f"Keep takes a Score, got {self.score!r}; write Keep(0.25, Random())")
        needs = self.score.required()
        known = _TOWER if self.of_tower else _PROMPT
        if unknown := needs - known:
            raise InputError(
                f"{self.score} reads {' and '.join(sorted(unknown))}, which is neither among the "
                "projected tokens nor recorded in the tower; use greedy, redundancy(tokens), "
                "temporal, relevance, grid, random, or a score of the tower such as shift(block)"
            )

    @property
    def of_tower(self) -> bool:
        """Whether the score is one of the tower's last block, the mean over a merged unit."""
        return bool(self.score.required() & _TOWER)

    @property
    def reduction(self) -> Reduction:
        """What becomes of those that leave."""
        return Merge() if self.merge else Prune()

    def of(self, count: int) -> int:
        """How many of ``count`` tokens stay."""
        if isinstance(self.amount, int):
            return min(count, self.amount)
        return min(count, max(1, math.floor(self.amount * count + 0.5)))

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"keep": self.amount, "score": self.score.to_dict(), "merge": self.merge}

    @classmethod
    def from_dict(cls, form: Any) -> Keep:
        """Inverse of ``to_dict``; ``score`` and ``merge`` may be left out."""
        if not isinstance(form, dict) or "keep" not in form:
            raise InputError(f'the prompt is {form!r}; expected an object such as {{"keep": 0.25}}')
        _refuse_unknown(form, ("keep", "score", "merge"), "prompt")
        merge = form.get("merge", True)
        if not isinstance(merge, bool):
            raise InputError(f"merge is {merge!r}; expected true or false")
        if "score" not in form:
            return cls(form["keep"], merge=merge)
        return cls(form["keep"], from_dict(registered(Score), form["score"]), merge)


@dataclass(frozen=True)
class VisionLanguagePlan:
    """Where a vision-language model drops visual tokens; each place is optional.

    Text, newline and marker tokens never leave. Each image, and each frame of a video, is decided
    by itself, so that what it keeps does not depend on others; how many it keeps is a function of
    its grid.

    Attributes:
        tower: Dropped inside the vision tower, after its blocks.
        prompt: Kept between the connector and the language model.
        decoder: Dropped after layers of the language model, counted from 0, visual tokens only; by
            shares of, or numbers among, those of each image that are left.
        provenance: How the plan was found, as its file says; it changes nothing, and what is
            derived from the plan has none.
    """

    tower: Plan | None = None
    prompt: Keep | None = None
    decoder: Plan | None = None
    provenance: Any = field(default=None, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name, value, kind in (
            ("tower", self.tower, Plan),
            ("prompt", self.prompt, Keep),
            ("decoder", self.decoder, Plan),
        ):
            if value is not None and not isinstance(value, kind):
                raise InputError(
                    f"{name} is {value!r}; expected a {kind.__name__}, such as "
                    f"{'Keep(0.25)' if kind is Keep else 'Plan({2: 0.3}, Shift(block))'}"
                )
        if self.decoder is not None:
            _check_decoder(self.decoder)

    def __str__(self) -> str:
        keep = self.prompt
        merged = " + merge" if keep and keep.merge else ""
        kept = keep and f"{keep.score}{merged} keeping {keep.amount:.3g}"
        places = (("tower", self.tower), ("prompt", kept), ("decoder", self.decoder))
        return "; ".join(f"{name}: {place}" for name, place in places if place) or "dense"

    @property
    def reads_words(self) -> bool:
        """Whether what is dropped depends on the text of a prompt."""
        scores = [place.score for place in (self.prompt, self.decoder) if place is not None]
        return any(score.required() & {"text", "last query"} for score in scores)

    def to_json(self) -> str:
        """JSON text that ``from_json`` reads back to an equal plan."""
        known = {} if self.provenance is None else {"provenance": self.provenance}
        return json.dumps(self._form() | known, indent=2)

    def found(self, provenance: Any) -> VisionLanguagePlan:
        """The same plan, with how it was found."""
        plan = replace(self)
        object.__setattr__(plan, "provenance", provenance)
        return plan

    def save(self, path: Path | str) -> None:
        """Write the JSON file, whole or not at all, that ``load`` reads."""
        write_text(Path(path), self.to_json())

    @classmethod
    def load(cls, path: Path | str) -> VisionLanguagePlan:
        """Read a plan's file, as ``save`` writes it."""
        return read_file(path, cls.from_json)

    @property
    def identity(self) -> str:
        """One line by which results of this plan are found again (see ``Plan.identity``)."""
        methods = [plan.score for plan in (self.tower, self.prompt, self.decoder) if plan]
        methods += [plan.reduction for plan in (self.tower, self.decoder) if plan]
        return json.dumps(self._form() | code_of(*methods))

    def _form(self) -> dict[str, Any]:
        form: dict[str, Any] = {}
        if self.tower is not None:
            form["tower"] = json.loads(self.tower.to_json())
        if self.prompt is not None:
            form["prompt"] = self.prompt.to_dict()
        if self.decoder is not None:
            form["decoder"] = json.loads(self.decoder.to_json())
        return form

    @classmethod
    def from_json(cls, text: str) -> VisionLanguagePlan:
        """Read a plan; each place may be left out."""
        try:
            form = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"the plan is not JSON: {error}") from None
        if not isinstance(form, dict):
            raise InputError(
                "a plan for a vision-language model is a JSON object with prompt, decoder or "
                'tower, such as {"prompt": {"keep": 0.25}}'
            )
        _refuse_unknown(form, ("tower", "prompt", "decoder", "provenance"), "plan")
        plans = {
            name: Plan.from_json(json.dumps(form[name]))
            for name in ("tower", "decoder")
            if form.get(name) is not None
        }
        prompt = form.get("prompt")
        plan = cls(prompt=None if prompt is None else Keep.from_dict(prompt), **plans)
        return plan.found(form.get("provenance"))


def _refuse_unknown(form: dict[str, Any], known: tuple[str, ...], what: str) -> None:
    if extra := form.keys() - set(known):
        raise InputError(
            f"the {what} has unknown keys {', '.join(sorted(extra))}; it takes {', '.join(known)}"
        )


def _check_decoder(plan: Plan) -> None:
    if plan.adaptive:
        raise InputError(
            "a level does not go with a language model: how many tokens of an image stay must be "
            "known before the prompt is read; use shares or counts"
        )
    if type(plan.reduction) not in (Prune, Merge):
        raise InputError(
            f"{plan.reduction} changes the order of tokens, or acts inside a block, and a "
            "language model reads them in order; use prune or merge in the decoder"
        )
    if extra := plan.required() - _DECODER:
        raise InputError(
            f"{plan.score} reads {' and '.join(sorted(extra))}, which a layer of a language model "
            "does not show without an attention map; use shift, key-norm, last-query, "
            "redundancy or random in the decoder"
        )
