"""What a model makes of every video with every variant, on disk as it is computed.

A stopped run goes on, several processes share the work, and the result is the same to the bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import closing
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from repshift.errors import InputError
from repshift.evaluation.tasks.store import Store
from repshift.measure.digest import digest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from jaxtyping import Float
    from torch import Tensor, nn

    from repshift.adapters.spec import EncoderSpec
    from repshift.evaluation.models.umt.answering import AnsweringModel
    from repshift.evaluation.models.umt.retrieval import RetrievalModel
    from repshift.evaluation.tasks.ranks import Ranks
    from repshift.evaluation.tasks.store import Piece
    from repshift.evaluation.tasks.variants import Variant
    from repshift.evaluation.tasks.videos import Videos


class VideoRun(ABC):
    """One model on one data set.

    ``settings`` are what its pieces depend on besides the videos, and ``words`` the texts of it as
    the model reads them, which the vocabulary decides.
    """

    def __init__(
        self,
        model: RetrievalModel | AnsweringModel,
        spec: EncoderSpec,
        videos: Videos,
        settings: dict[str, Any],
        words: Sequence[Tensor],
        folder: Path,
        ranks: Ranks,
    ) -> None:
        self.spec, self.videos, self.folder, self.ranks = spec, videos, folder, ranks
        self._model = model
        state = model.state_dict()
        weights = [(key, str(value.dtype), list(value.shape)) for key, value in state.items()]
        weights = {"parameters": weights, "weights": digest(state.values())}
        self._settings = {**weights, **settings, "words": digest(words), **videos.settings}

    @abstractmethod
    def piece(
        self, encoder: nn.Module, indices: Sequence[int], video: Float[Tensor, "B T 3 S S"]
    ) -> Piece:
        """What is kept of a batch of videos, run with the encoder of the variant at hand."""

    @abstractmethod
    def quality(self, row: Variant) -> dict[str, Any]:
        """How good one variant is, by the names of the results; after ``encode``."""

    def encode(self, rows: Sequence[Variant]) -> None:
        """Compute the pieces that are missing; each process those of its share.

        A video that could not be used is tried again: where it can be by now, its batch is computed
        anew, for all rows, which are compared on the same videos.
        """
        runs = [(row, number) for row in rows for number in range(max(1, len(row.plans)))]
        stores = {run: self.store(*run) for run in runs}

        def missing(chunk: int, usable: Sequence[int]) -> list[tuple[Variant, int]]:
            return [
                run
                for run in runs
                if not stores[run].has(chunk_name(chunk)) or _used(stores[run], chunk) != [*usable]
            ]

        mine = [chunk for chunk in range(self.videos.chunks) if self.ranks.owns(chunk)]
        due = [chunk for chunk in mine if missing(chunk, self.videos.members(chunk))]
        # Closed even where a batch fails: the processes that decode end with it.
        with closing(self.videos.read(due)) as batches:
            for chunk, indices, video in tqdm(
                batches, total=len(due), desc="videos", unit="batch", leave=False
            ):
                for row, number in missing(chunk, indices):
                    piece = {"index": torch.tensor(indices)}
                    if indices:
                        with torch.inference_mode(), row.attached(self._model, self.spec, number):
                            encoder = row.model or self._model.vision_encoder
                            piece |= self.piece(encoder, indices, row.given(video))
                    stores[row, number].write(chunk_name(chunk), piece)
        self.ranks.wait()

    def stores(self, row: Variant) -> list[Store]:
        """Where the pieces are, for each plan of a variant."""
        return [self.store(row, number) for number in range(max(1, len(row.plans)))]

    def store(self, row: Variant, number: int) -> Store:
        return Store(self.folder, {"plan": row.identities[number], **self._settings})

    def usable(self, store: Store) -> dict[int, list[int]]:
        """The videos of each chunk that were decoded; ``InputError`` if none was."""
        found = {chunk: _used(store, chunk) for chunk in range(self.videos.chunks)}
        if not any(found.values()):
            raise InputError(
                f"none of the {len(self.videos.paths)} videos can be used; the first: "
                f"{self.videos.reasons([0])[0]}"
            )
        return found

    def skipped(self, row: Variant) -> list[str]:
        """A line for each video that was left out."""
        used = {index for chunk in self.usable(self.store(row, 0)).values() for index in chunk}
        return self.videos.reasons([i for i in range(len(self.videos.paths)) if i not in used])


def _used(store: Store, chunk: int) -> list[int]:
    """The videos that stand in the piece of a chunk."""
    return store.read(chunk_name(chunk), ("index",))["index"].tolist()


def chunk_name(number: int) -> str:
    """The name of a piece."""
    return f"videos-{number:05}"
