"""How well texts find videos and videos find texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from repshift.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Float, Int
    from torch import Tensor

NOT_RANKED = -100.0


@dataclass(frozen=True)
class Recall:
    """Percent of the queries whose match is among the first 1, 5, 10, and the median rank (from 1).

    Nothing is rounded.
    """

    at_1: float
    at_5: float
    at_10: float
    median_rank: float

    @property
    def mean(self) -> float:
        """The mean of the three recalls."""
        return (self.at_1 + self.at_5 + self.at_10) / 3


@dataclass(frozen=True)
class RetrievalResult:
    """Recall in both directions; papers report text to video."""

    text_to_video: Recall
    video_to_text: Recall

    @property
    def mean(self) -> float:
        """The mean over both directions."""
        return (self.text_to_video.mean + self.video_to_text.mean) / 2


def rerank(
    similarity: Float[Tensor, "V X"],
    match: Callable[[int, Int[Tensor, " n"]], Float[Tensor, " n"]],
    k: int = 128,
) -> tuple[Float[Tensor, "V X"], Float[Tensor, "X V"]]:
    """Scores of the ``k`` most similar texts of each video, and videos of each text.

    ``match(video, texts)`` scores a video with some texts, given by their indices. All other
    entries are -100. A pair that is asked for in both directions is scored once, and all texts of a
    video together, so that whatever depends on the video alone is done once.
    """
    if k < 1:
        raise InputError(f"k is {k}; at least the best candidate must be ranked again")
    videos, texts = similarity.shape
    of_video, of_text = (
        torch.zeros_like(rows, dtype=torch.bool).scatter(1, rows.topk(min(k, n)).indices, True)
        for rows, n in ((similarity, texts), (similarity.T, videos))
    )
    asked = of_video | of_text.T
    scores = torch.full_like(similarity, NOT_RANKED)
    for video in range(videos):
        chosen = asked[video].nonzero()[:, 0]
        scores[video, chosen] = match(video, chosen).to(scores)
    return (
        scores.masked_fill(~of_video, NOT_RANKED),
        scores.T.masked_fill(~of_text, NOT_RANKED),
    )


def ranks(scores: Float[Tensor, "Q N"], truth: Sequence[Sequence[int]]) -> Int[Tensor, " Q"]:
    """The rank, from 0, of each query's best placed match.

    Of equal scores the one with the higher index comes first, as in the reference; the -100 of
    candidates that were not ranked again are such.
    """
    if not scores.isfinite().all():
        raise InputError("the scores are not all finite; nothing can be ranked by them")
    if len(truth) != len(scores) or not all(truth):
        raise InputError(
            f"each of the {len(scores)} queries needs one match or more; got {len(truth)} lists"
            f"{'' if all(truth) else ', some of them empty'}"
        )
    order = scores.argsort(dim=1, stable=True).flip(1)
    places = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return torch.stack([places[query, list(found)].min() for query, found in enumerate(truth)])


def recall(ranks: Int[Tensor, " Q"]) -> Recall:
    """Recall and median rank of ranks that count from 0."""
    found = (100 * (ranks < limit).double().mean().item() for limit in (1, 5, 10))
    return Recall(*found, median_rank=ranks.double().quantile(0.5).item() + 1)


def retrieval_result(
    video_to_text: Float[Tensor, "V X"],
    text_to_video: Float[Tensor, "X V"],
    texts_of: Sequence[Sequence[int]],
    videos_of: Sequence[Sequence[int]],
) -> RetrievalResult:
    """Recall in both directions, from the texts of each video and the videos of each text."""
    return RetrievalResult(
        text_to_video=recall(ranks(text_to_video, videos_of)),
        video_to_text=recall(ranks(video_to_text, texts_of)),
    )
