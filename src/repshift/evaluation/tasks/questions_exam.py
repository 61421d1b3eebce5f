"""A vision-language model and questions about a user's own images."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Any

import torch

from repshift.errors import InputError
from repshift.evaluation.data.images import read_image
from repshift.evaluation.tasks.vlm_exam import Exam
from repshift.evaluation.tasks.vlm_rows import Depth
from repshift.measure.digest import digest
from repshift.vision_language.families import parts_of
from repshift.vision_language.tower import Tower

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Bool, Int
    from torch import Tensor

    from repshift.evaluation.data.questions import Asked
    from repshift.evaluation.tasks.vlm_rows import Row
    from repshift.evaluation.zoo.vision_language import LoadedVisionLanguage

WORDS = 24  # tokens of an answer, at most


class QuestionsExam(Exam):
    """Asks one question after the other, its images first.

    An answer is right if it begins with the expected one, whatever the capitals and punctuation.
    """

    orders = ("after",)

    def __init__(self, loaded: LoadedVisionLanguage, questions: Sequence[Asked]) -> None:
        if unanswered := [one.question for one in questions if one.answer is None]:
            raise InputError(
                f"the question {unanswered[0]!r} has no answer; a bench compares with what is right"
            )
        self.loaded, self.questions = loaded, questions
        self.name = loaded.name
        self.kinds = tuple(dict.fromkeys(one.kind for one in questions))
        self.facts = {"questions": len(questions)}

    @property
    def depth(self) -> Depth:
        """Of the tower up to where features are taken, and of the decoder."""
        parts = parts_of(self.loaded.model)
        tower = Tower(parts.core)
        tower.detach()
        return Depth(tower.block + 1, len(parts.layers))

    def identity(self) -> dict[str, Any]:
        """All that answers depend on beside the row."""
        asked = [[*map(str, one.images), one.question, one.answer] for one in self.questions]
        return {"weights": digest(self.loaded.model.state_dict().values()), "questions": asked}

    def model(self, kernel: str) -> Any:
        """The model, with this attention in its language model and its tower."""
        model: Any = self.loaded.model
        if model.config._attn_implementation != kernel:
            model.set_attn_implementation(kernel)
        return model

    def batches(self, order: str) -> list[tuple[str, int]]:
        """Each question by itself."""
        return [(one.kind, 1) for one in self.questions]

    def about_film(self, order: str, batch: int) -> bool:
        """No question is."""
        return False

    def given(self, row: Row, order: str, batch: int) -> Mapping[str, Any]:
        """The prompt in the model's chat template."""
        return {**self._inputs(row, self.questions[batch]), "max_new_tokens": WORDS}

    def right(self, order: str, batch: int, said: Int[Tensor, "B A"]) -> Bool[Tensor, " B"]:
        """Whether the answer begins with the expected one."""
        expected = _plain(self.questions[batch].answer or "")
        [told] = self.loaded.processor.batch_decode(said, skip_special_tokens=True)
        words = _plain(told)
        return torch.tensor([words[: len(expected)] == expected])

    def example(self, row: Row) -> Mapping[str, Any]:
        """The first question."""
        return self._inputs(row, self.questions[0])

    def tokens(self, inputs: Mapping[str, Any]) -> int:
        """How many placeholders the prompt has."""
        parts = parts_of(self.loaded.model)
        ids = [getattr(parts.core.config, name) for _, name in parts.family.tokens]
        return sum(int((inputs["input_ids"][0] == one).sum()) for one in ids)

    def _inputs(self, row: Row, asked: Asked) -> Mapping[str, Any]:
        images = [] if row.blind else [read_image(path) for path in asked.images]
        if row.smaller != 1.0:
            sizes = [[max(1, round(side * row.smaller)) for side in one.size] for one in images]
            images = [one.resize(size) for one, size in zip(images, sizes, strict=True)]
        return self.loaded.inputs(images, asked.question)


def _plain(text: str) -> list[str]:
    """Words in small letters, without punctuation."""
    return text.lower().translate(str.maketrans("", "", string.punctuation)).split()
