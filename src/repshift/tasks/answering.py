"""Video question answering with every variant of a model: accuracy beside speed.

A video is encoded once for all of its questions, and each question answered by ranking the list of
answers, as UMT is tested. Predictions are kept on disk as they are made, so that a stopped run goes
on and several processes can share the work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from repshift.errors import InputError
from repshift.tasks.store import Store, digest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from jaxtyping import Bool, Int
    from torch import Tensor

    from repshift.adapters.spec import EncoderSpec
    from repshift.data.annotations import QuestionSet
    from repshift.models.umt.answering import AnsweringModel
    from repshift.tasks.store import Ranks
    from repshift.tasks.variants import Variant
    from repshift.tasks.videos import Videos

    Encoded = tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]

_QUESTIONS = 32  # of one video in a call; bounds memory


class Answering:
    """One model, one data set, one folder: ``predict``, then ``accuracy`` of each variant.

    ``questions`` and ``answers`` are ids and masks, one row each; the ``candidates`` answers with
    the likeliest first word piece are ranked.
    """

    def __init__(
        self,
        model: AnsweringModel,
        spec: EncoderSpec,
        data: QuestionSet,
        videos: Videos,
        questions: Encoded,
        answers: Encoded,
        *,
        candidates: int = 128,
        folder: Path,
        ranks: Ranks,
    ) -> None:
        self.model, self.spec, self.data, self.videos = model, spec, data, videos
        self.questions = tuple(part.to(videos.device) for part in questions)
        self.answers = tuple(part.to(videos.device) for part in answers)
        self.candidates = min(candidates, len(data.answer_list))
        self.folder, self.ranks = folder, ranks
        self.weights = digest(model)
        self.asked: list[list[int]] = [[] for _ in data.videos]
        for question, video in enumerate(data.video_of):
            self.asked[video].append(question)

    def predict(self, rows: Sequence[Variant]) -> None:
        """The answer to every question by every plan of every variant, on disk."""
        runs = [(row, number) for row in rows for number in range(max(1, len(row.plans)))]
        stores = {run: self._store(*run) for run in runs}

        def missing(chunk: int) -> list[tuple[Variant, int]]:
            return [run for run in runs if not stores[run].has(_chunk(chunk))]

        mine = [chunk for chunk in range(self.videos.chunks) if self.ranks.owns(chunk)]
        due = [chunk for chunk in mine if missing(chunk)]
        for chunk, indices, video in tqdm(
            self.videos.read(due), total=len(due), desc="videos", unit="batch", leave=False
        ):
            for run in missing(chunk):
                row, number = run
                piece = {"question": torch.empty(0), "answer": torch.empty(0)}
                if indices:
                    with torch.inference_mode(), row.attached(self.model, self.spec, number):
                        tokens = self.model.vision_encoder(video)
                    piece = self._answer(indices, tokens)
                stores[run].write(_chunk(chunk), piece)
        self.ranks.wait()

    def accuracy(self, row: Variant) -> float:
        """Percent of the questions about usable videos answered as annotated, letter by letter.

        The mean over the variant's plans; after ``predict``.
        """
        shares = []
        for number in range(max(1, len(row.plans))):
            store = self._store(row, number)
            right = [
                self.data.answer_list[answer] == self.data.answers[question]
                for chunk in range(self.videos.chunks)
                for piece in [store.read(_chunk(chunk))]
                for question, answer in zip(
                    piece["question"].tolist(), piece["answer"].tolist(), strict=True
                )
            ]
            if not right:
                raise InputError("no question is about a video that can be used")
            shares.append(100 * sum(right) / len(right))
        return sum(shares) / len(shares)

    @torch.inference_mode()
    def _answer(self, videos: Sequence[int], tokens: Tensor) -> dict[str, Tensor]:
        questions, answers = [], []
        for video, seen in zip(videos, tokens, strict=True):
            for part in torch.tensor(self.asked[video], dtype=torch.long).split(_QUESTIONS):
                ids, mask = (whole[part.to(whole.device)] for whole in self.questions)
                best, _ = self.model.answer(seen[None], ids, mask, *self.answers, self.candidates)
                questions.append(part)
                answers.append(best[:, 0].cpu())
        return {"question": torch.cat(questions), "answer": torch.cat(answers)}

    def _store(self, row: Variant, number: int) -> Store:
        plan = row.plans[number].to_json() if row.plans else row.label
        settings = {"candidates": self.candidates, "questions": self.data.questions}
        settings |= {"answers": self.data.answer_list, "weights": self.weights, "plan": plan}
        return Store(self.folder, {**settings, **self.videos.settings})


def _chunk(number: int) -> str:
    return f"answers-{number:05}"
