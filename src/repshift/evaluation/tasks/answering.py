"""Video question answering with every variant of a model.

A video is encoded once for all of its questions, and each question answered by ranking the list of
answers, as UMT is tested.
"""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from repshift.evaluation.tasks.video_run import VideoRun, chunk_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from jaxtyping import Bool, Float, Int
    from torch import Tensor, nn

    from repshift.adapters.spec import EncoderSpec
    from repshift.evaluation.data.annotations import QuestionSet
    from repshift.evaluation.models.umt.answering import AnsweringModel
    from repshift.evaluation.tasks.ranks import Ranks
    from repshift.evaluation.tasks.store import Piece, Store
    from repshift.evaluation.tasks.variants import Variant
    from repshift.evaluation.tasks.videos import Videos

_QUESTIONS = 32  # of one video in a call; bounds memory


class Answering(VideoRun):
    """``questions`` and ``answers`` are ids and masks, a row each.

    Of the answers the ``candidates`` with the likeliest first word piece are ranked, all if there
    are fewer.
    """

    def __init__(
        self,
        model: AnsweringModel,
        spec: EncoderSpec,
        data: QuestionSet,
        videos: Videos,
        questions: tuple[Int[Tensor, "Q L"], Bool[Tensor, "Q L"]],
        answers: tuple[Int[Tensor, "A M"], Bool[Tensor, "A M"]],
        *,
        candidates: int,
        folder: Path,
        ranks: Ranks,
    ) -> None:
        candidates = min(candidates, len(data.answer_list))
        asked = {"questions": data.questions, "answers": data.answer_list, "k": candidates}
        words = (*questions, *answers)
        super().__init__(model, spec, videos, asked, words, folder, ranks)
        self.model, self.data, self.candidates = model, data, candidates
        self.questions = tuple(part.to(videos.device) for part in questions)
        self.answers, self.answers_mask = (part.to(videos.device) for part in answers)
        self.asked: list[list[int]] = [[] for _ in data.videos]
        for question, video in enumerate(data.video_of):
            self.asked[video].append(question)

    def piece(
        self, encoder: nn.Module, indices: Sequence[int], video: Float[Tensor, "B T 3 S S"]
    ) -> Piece:
        questions, answers = [], []
        for index, tokens in zip(indices, encoder(video), strict=True):
            for part in torch.tensor(self.asked[index]).split(_QUESTIONS):
                ids, mask = (whole[part.to(whole.device)] for whole in self.questions)
                best, _ = self.model.answer(
                    tokens[None], ids, mask, self.answers, self.answers_mask, self.candidates
                )
                questions.append(part)
                answers.append(best[:, 0].cpu())
        return {"question": torch.cat(questions), "answer": torch.cat(answers)}

    def quality(self, row: Variant) -> dict[str, Any]:
        """Share of the questions answered as annotated, letter by letter; mean over the plans."""
        return {"accuracy": fmean(self._right(store) for store in self.stores(row))}

    def _right(self, store: Store) -> float:
        chunks = [chunk for chunk, videos in self.usable(store).items() if videos]
        pieces = [store.read(chunk_name(chunk)) for chunk in chunks]
        return fmean(
            self.data.answer_list[answer] == self.data.answers[question]
            for piece in pieces
            for question, answer in zip(
                piece["question"].tolist(), piece["answer"].tolist(), strict=True
            )
        )
