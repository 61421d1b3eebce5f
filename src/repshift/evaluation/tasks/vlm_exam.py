"""What a vision-language model is given: a prompt whose cost is measured, and questions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Bool, Int
    from torch import Tensor

    from repshift.evaluation.tasks.vlm_rows import Row


class Example(ABC):
    """A model and a prompt, or several alike, whose cost is measured.

    Attributes:
        rounds: How often each row is timed.
        seconds: For about so long in a round, once at least.
        words: Of which the mean is taken, behind the first.
    """

    rounds: int = 3
    seconds: float = 0.05
    words: int = 8

    @abstractmethod
    def model(self, kernel: str) -> Any:
        """The model with this attention."""

    @abstractmethod
    def example(self, row: Row) -> Mapping[str, Any]:
        """The prompts as a row has them."""

    @abstractmethod
    def tokens(self, inputs: Mapping[str, Any]) -> int:
        """How many tokens of what is seen one of the prompts has."""


class Exam(Example):
    """Batches of questions, each of one kind.

    Attributes:
        name: What the model is called.
        orders: Where the question may stand, ``after`` what is seen or ``before`` it.
        kinds: Of questions.
        facts: What the results say of the questions.
    """

    name: str
    orders: tuple[str, ...]
    kinds: tuple[str, ...]
    facts: dict[str, Any]

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """All that answers depend on beside the row: weights and questions."""

    @abstractmethod
    def batches(self, order: str) -> Sequence[tuple[str, int]]:
        """Of each batch its kind and how many questions it has."""

    @abstractmethod
    def about_film(self, order: str, batch: int) -> bool:
        """Whether the batch is about films."""

    @abstractmethod
    def given(self, row: Row, order: str, batch: int) -> Mapping[str, Any]:
        """What ``generate`` is given, ``max_new_tokens`` among it."""

    @abstractmethod
    def right(self, order: str, batch: int, said: Int[Tensor, "B A"]) -> Bool[Tensor, " B"]:
        """Which answers are right."""
