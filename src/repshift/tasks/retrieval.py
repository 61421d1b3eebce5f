"""Video-text retrieval with every variant of a model: recall beside speed.

A variant's videos are encoded once, its texts compared with all of them, and the best candidates
ranked again by the fusion layers, as UMT is tested. Everything is kept on disk as it is computed,
so that a stopped run goes on and several processes can share the work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from repshift.errors import InputError
from repshift.tasks.ranking import RetrievalResult, rerank, retrieval_result
from repshift.tasks.store import Store, digest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from repshift.adapters.spec import EncoderSpec
    from repshift.data.annotations import RetrievalSet
    from repshift.models.umt.retrieval import RetrievalModel
    from repshift.tasks.store import Ranks
    from repshift.tasks.variants import Variant
    from repshift.tasks.videos import Videos

_TEXTS = 32  # that one call of the fusion layers takes; bounds memory


@dataclass(frozen=True)
class Texts:
    """All texts of a data set as the fusion layers read them."""

    features: Float[Tensor, "X L D"]
    mask: Bool[Tensor, "X L"]


class Retrieval:
    """One model, one data set, one folder.

    ``encode`` runs the videos through every variant and ``result`` ranks; with several processes
    each does its share of both.
    """

    def __init__(
        self,
        model: RetrievalModel,
        spec: EncoderSpec,
        data: RetrievalSet,
        videos: Videos,
        texts: tuple[Int[Tensor, "X L"], Bool[Tensor, "X L"]],
        *,
        candidates: int = 128,
        folder: Path,
        ranks: Ranks,
    ) -> None:
        if model.vision_encoder.pool != "all":
            raise InputError('once tokens leave, videos are pooled with pool="all"')
        self.model, self.spec, self.data, self.videos = model, spec, data, videos
        self.candidates, self.folder, self.ranks = candidates, folder, ranks
        self.weights = digest(model)
        ids, mask = (part.to(videos.device) for part in texts)
        with torch.inference_mode():
            parts = [model.encode_text(*part) for part in zip(ids.split(256), mask.split(256))]
        self.texts = Texts(torch.cat(parts), mask)

    def encode(self, rows: Sequence[Variant]) -> None:
        """Tokens and pooled feature of every video by every plan of every variant, on disk."""
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
                piece = {"index": torch.tensor(indices)}
                if indices:
                    with torch.inference_mode(), row.attached(self.model, self.spec, number):
                        tokens, pooled = self.model.encode_video(video)
                    piece |= {"tokens": tokens.cpu(), "pooled": pooled.cpu()}
                stores[run].write(_chunk(chunk), piece)
        self.ranks.wait()

    def result(self, row: Variant) -> list[RetrievalResult]:
        """Recall of one variant, for each of its plans; after ``encode``."""
        return [self._rank(self._store(row, number)) for number in range(max(1, len(row.plans)))]

    def _rank(self, store: Store) -> RetrievalResult:
        place, pooled = self._encoded(store)
        videos = list(place)
        texts, texts_of, videos_of = among(self.data, videos)
        features, mask = self.texts.features[texts], self.texts.mask[texts]

        def match(video: int, chosen: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
            chunk, row = place[videos[video]]

            def compute() -> dict[str, Tensor]:
                tokens = store.read(_chunk(chunk))["tokens"][row, None].to(self.videos.device)
                logits = [
                    self.model.match(tokens, features[part], mask[part])
                    for part in chosen.split(_TEXTS)
                ]
                return {"scores": torch.cat(logits)[:, 1].cpu()}

            name = f"match-{self.candidates}-{videos[video]:06}"
            return store.get(name, compute)["scores"].to(self.videos.device)

        def share(video: int, chosen: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
            progress.update()
            own = self.ranks.owns(video)
            return match(video, chosen) if own else torch.zeros(len(chosen), device=chosen.device)

        with torch.inference_mode():
            similarity = self.model.similarity(pooled.to(self.videos.device), features)
            with tqdm(total=len(videos), desc="ranking", unit="video", leave=False) as progress:
                rerank(similarity, share, self.candidates)
            self.ranks.wait()
            return retrieval_result(*rerank(similarity, match, self.candidates), texts_of, videos_of)

    def _encoded(self, store: Store) -> tuple[dict[int, tuple[int, int]], Float[Tensor, "V F C"]]:
        """Where each usable video is (chunk, row), and all their pooled features."""
        place: dict[int, tuple[int, int]] = {}
        pooled = []
        for chunk in range(self.videos.chunks):
            usable = store.read(_chunk(chunk), ("index",))["index"].tolist()
            place |= {video: (chunk, row) for row, video in enumerate(usable)}
            if usable:
                pooled.append(store.read(_chunk(chunk), ("pooled",))["pooled"])
        return place, torch.cat(pooled)

    def _store(self, row: Variant, number: int) -> Store:
        plan = row.plans[number].to_json() if row.plans else row.label
        return Store(self.folder, {"weights": self.weights, "plan": plan, **self.videos.settings})


def among(
    data: RetrievalSet, videos: Sequence[int]
) -> tuple[list[int], list[list[int]], list[list[int]]]:
    """The texts that some of these videos match; then, counted anew, which belong together."""
    number = {video: place for place, video in enumerate(videos)}
    texts = [x for x, found in enumerate(data.videos_of) if number.keys() & found]
    count = {text: place for place, text in enumerate(texts)}
    return (
        texts,
        [[count[text] for text in data.texts_of[video]] for video in videos],
        [[number[v] for v in data.videos_of[text] if v in number] for text in texts],
    )


def _chunk(number: int) -> str:
    return f"videos-{number:05}"
