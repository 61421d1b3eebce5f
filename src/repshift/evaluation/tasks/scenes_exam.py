"""The small models of the zoo and the held-out questions about generated scenes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from repshift.evaluation.tasks.vlm_exam import Exam
from repshift.evaluation.tasks.vlm_rows import Depth, pooled
from repshift.evaluation.zoo.scenes.model import WORDS
from repshift.evaluation.zoo.scenes.models import SCENES_VLM
from repshift.evaluation.zoo.scenes.prompt import prompts
from repshift.evaluation.zoo.scenes.scene import CELL
from repshift.measure.digest import digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Bool, Int
    from torch import Tensor

    from repshift.evaluation.tasks.vlm_rows import Row
    from repshift.evaluation.zoo.scenes.held_out import Item
    from repshift.evaluation.zoo.scenes.models import SceneModel
    from repshift.evaluation.zoo.scenes.prompt import Prompts

BATCH = 100
EXAMPLES = 4  # prompts at once whose cost is measured


class ScenesExam(Exam):
    """Asks a model's items in both orders. Features that rows have in common are computed once."""

    orders = ("after", "before")

    def __init__(self, items: Sequence[Item], asked: SceneModel = SCENES_VLM) -> None:
        self.asked, self.items = asked, asked.asked(items)
        self.name, self.kinds, self.depth = asked.name, asked.kinds, Depth(*asked.depth)
        self.films = any(_film([item]) for item in self.items)
        self.facts = {"questions of a kind": len(self.items) // len(self.kinds)}
        groups: dict[tuple[str, int], list[Item]] = {}
        for item in self.items:  # of the same length, so that nothing is padded
            groups.setdefault((item.question.kind, len(item.question.words)), []).append(item)
        self._batches = [
            group[at : at + BATCH]
            for group in groups.values()
            for at in range(0, len(group), BATCH)
        ]
        self._models: dict[str, Any] = {}
        self._features: dict[int, Any] = {}

    def identity(self) -> dict[str, Any]:
        """All that answers depend on beside the row."""
        return {"weights": digest(self.model("sdpa").state_dict().values()), **self.facts}

    def model(self, kernel: str) -> Any:
        """The trained model with this attention."""
        if kernel not in self._models:
            self._models[kernel] = self.asked.load(kernel)
        return self._models[kernel]

    def batches(self, order: str) -> list[tuple[str, int]]:
        """Of each batch its kind and how many questions it has."""
        return [(batch[0].question.kind, len(batch)) for batch in self._batches]

    def about_film(self, order: str, batch: int) -> bool:
        """Whether the batch is about films."""
        return _film(self._batches[batch])

    def given(self, row: Row, order: str, batch: int) -> Mapping[str, Any]:
        """The prompts; where the row leaves the tower alone, with features computed before."""
        items, key = self._batches[batch], batch  # in whatever order
        known = key in self._features and not row.tower
        asked = self._prompts(items, order == "before", row.blind, row.smaller, pixels=not known)
        words = asked.answers.shape[1]
        inputs = asked.inputs | {"max_new_tokens": words, "min_new_tokens": words}
        if row.blind or row.tower:
            return inputs
        modality = "video" if _film(items) else "image"
        if not known:
            core = self.model("sdpa").model
            read = getattr(core, f"get_{modality}_features")
            of_pixels = [name for name in inputs if name.startswith("pixel_values")]
            shapes = {name: inputs[name] for name in inputs if name.endswith("grid_thw")}
            pixels = {name: inputs.pop(name) for name in of_pixels}
            self._features[key] = read(**pixels, **shapes)
        seen = self._features[key]
        if row.pooled:
            seen = pooled(seen, items[0].scenes[0].edge // CELL)
        return inputs | {"mm_encoder_outputs": {modality: seen}}

    def right(self, order: str, batch: int, said: Int[Tensor, "B A"]) -> Bool[Tensor, " B"]:
        """Which answers are right to the last word."""
        answers = self._prompts(self._batches[batch], blind=True).answers
        return (said == answers).all(1)

    def example(self, row: Row) -> Mapping[str, Any]:
        """Prompts about one image each, or about films where the row is for films alone."""
        batch = next(batch for batch in self._batches if row.films == _film(batch))
        return self._prompts(batch[:EXAMPLES], blind=row.blind, smaller=row.smaller).inputs

    def tokens(self, inputs: Mapping[str, Any]) -> int:
        """How many tokens of what is seen one prompt of the example has."""
        marks = torch.tensor([WORDS["<image>"], WORDS["<video>"]])
        return int(torch.isin(inputs["input_ids"][0], marks).sum())

    def _prompts(self, *args: Any, **kwargs: Any) -> Prompts:
        return prompts(*args, **kwargs, model=self.asked)


def _film(items: Sequence[Item]) -> bool:
    return items[0].scenes[0].frames > 1
