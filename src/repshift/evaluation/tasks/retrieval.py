"""Video-text retrieval with every variant of a model.

Videos are encoded once, texts compared with all of them, and the best candidates ranked again by
the fusion layers, as UMT is tested.
"""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from repshift.errors import InputError
from repshift.evaluation.tasks.ranking import rerank, retrieval_result
from repshift.evaluation.tasks.video_run import VideoRun, chunk_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from jaxtyping import Bool, Float, Int
    from torch import Tensor, nn

    from repshift.adapters.spec import EncoderSpec
    from repshift.evaluation.data.annotations import RetrievalSet
    from repshift.evaluation.models.umt.retrieval import RetrievalModel
    from repshift.evaluation.tasks.ranking import RetrievalResult
    from repshift.evaluation.tasks.ranks import Ranks
    from repshift.evaluation.tasks.store import Piece, Store
    from repshift.evaluation.tasks.variants import Variant
    from repshift.evaluation.tasks.videos import Videos

_TEXTS = 32  # that one call of the fusion layers takes; bounds memory


class Retrieval(VideoRun):
    """``texts`` are ids and mask of the data set's texts; ``candidates`` are ranked again."""

    def __init__(
        self,
        model: RetrievalModel,
        spec: EncoderSpec,
        data: RetrievalSet,
        videos: Videos,
        texts: tuple[Int[Tensor, "X L"], Bool[Tensor, "X L"]],
        *,
        candidates: int,
        folder: Path,
        ranks: Ranks,
    ) -> None:
        if model.vision_encoder.pool != "all":
            raise InputError('once tokens leave, videos are pooled with pool="all"')
        super().__init__(model, spec, videos, {"texts": data.texts}, texts, folder, ranks)
        self.model, self.data, self.candidates = model, data, candidates
        ids, self.mask = (part.to(videos.device) for part in texts)
        with torch.inference_mode():
            parts = zip(ids.split(256), self.mask.split(256), strict=True)
            self.texts = torch.cat([model.encode_text(*part) for part in parts])

    def piece(
        self, encoder: nn.Module, indices: Sequence[int], video: Float[Tensor, "B T 3 S S"]
    ) -> Piece:
        tokens, pooled = encoder(video)
        return {"tokens": tokens.cpu(), "pooled": pooled.cpu()}

    def quality(self, row: Variant) -> dict[str, Any]:
        """Recalls in percent, means over the variant's plans."""
        results = [self._rank(store) for store in self.stores(row)]
        recalls = {
            f"{way}_r{k}": fmean(getattr(getattr(one, name), f"at_{k}") for one in results)
            for way, name in (("t2v", "text_to_video"), ("v2t", "video_to_text"))
            for k in (1, 5, 10)
        }
        both = {f"mean_r{k}": (recalls[f"t2v_r{k}"] + recalls[f"v2t_r{k}"]) / 2 for k in (1, 5, 10)}
        rank = fmean(one.text_to_video.median_rank for one in results)
        return {**recalls, **both, "median_rank": rank}

    def _rank(self, store: Store) -> RetrievalResult:
        device = self.videos.device
        chunks = self.usable(store)
        place = {
            video: (chunk, row)
            for chunk, videos in chunks.items()
            for row, video in enumerate(videos)
        }
        videos = list(place)
        texts, texts_of, videos_of = among(self.data, videos)
        features, mask = self.texts[texts], self.mask[texts]

        def match(video: int, chosen: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
            chunk, row = place[videos[video]]

            asked = torch.tensor(texts)[chosen.cpu()]

            def compute() -> Piece:
                tokens = store.row(chunk_name(chunk), "tokens", row).to(device)
                logits = [
                    self.model.match(tokens, features[part], mask[part])[:, 1]
                    for part in chosen.split(_TEXTS)
                ]
                return {"scores": torch.cat(logits).cpu(), "texts": asked}

            name = f"match-{self.candidates}-{videos[video]:06}"
            piece = store.get(name, compute)
            if not torch.equal(piece["texts"], asked):  # of other candidates
                store.write(name, piece := compute())
            return piece["scores"].to(device)

        def share(video: int, chosen: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
            progress.update()
            own = self.ranks.owns(video)
            return match(video, chosen) if own else features.new_zeros(len(chosen))

        pooled = torch.cat(
            [
                store.read(chunk_name(chunk), ("pooled",))["pooled"]
                for chunk in chunks
                if chunks[chunk]
            ]
        )
        with torch.inference_mode():
            similarity = self.model.similarity(pooled.to(device), features)
            with tqdm(total=len(videos), desc="ranking", unit="video", leave=False) as progress:
                rerank(similarity, share, self.candidates)
            self.ranks.wait()
            scores = rerank(similarity, match, self.candidates)
        return retrieval_result(*scores, texts_of, videos_of)


def among(
    data: RetrievalSet, videos: Sequence[int]
) -> tuple[list[int], list[list[int]], list[list[int]]]:
    """The texts that some of these videos match; then, counted anew, which belong together."""
    number = {video: place for place, video in enumerate(videos)}
    texts = [text for text, found in enumerate(data.videos_of) if number.keys() & found]
    count = {text: place for place, text in enumerate(texts)}
    return (
        texts,
        [[count[text] for text in data.texts_of[video]] for video in videos],
        [[number[v] for v in data.videos_of[text] if v in number] for text in texts],
    )
