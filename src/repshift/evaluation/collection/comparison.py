"""What a user loses and gains by the plan, on a sample of the user's own files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from repshift.evaluation.collection.pieces import Piece, Pieces, batch_of, read_pieces
from repshift.measure.environment import environment, libraries
from repshift.measure.speed import interleave, speedup

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from repshift.evaluation.collection.encoder import Encoder
    from repshift.evaluation.collection.places import Found

SAMPLE = 256  # pieces at most
_OF_A_VIDEO = 8  # of them, the first ones
ROUNDS = 3
_TIMED = 8  # pieces in a batch that is timed on a CPU, where a larger one is no faster
NEIGHBOURS = 10


@dataclass(frozen=True)
class Comparison:
    """Dense against compressed.

    ``recall`` is the share of the ``neighbours`` that the dense model finds for each piece among
    the others of the sample which the compressed model finds too; ``chance`` what random ones give.
    ``cosine`` is the mean between the two vectors of a piece. Speeds are of the encoder alone, in
    pieces a second, taken in turn.
    """

    pieces: int
    neighbours: int
    recall: float
    chance: float
    cosine: float
    speedup: float
    dense_rate: float
    compressed_rate: float
    environment: dict[str, Any]


def compare(
    encoder: Encoder, files: Sequence[Found], workers: int, seconds: float
) -> Comparison | None:
    """Both models on a sample drawn by a fixed seed; None where fewer than three can be read."""
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0)).tolist()
    until = list(accumulate(_OF_A_VIDEO if files[at].is_video else 1 for at in order))
    drawn = [files[at] for at, pieces in zip(order, until, strict=True) if pieces <= SAMPLE]
    read = read_pieces(Pieces(drawn, encoder.see, seconds, _OF_A_VIDEO), workers)
    pieces = [one for one in read if isinstance(one, Piece)]
    if len(pieces) < 3:
        return None
    pieces.sort(key=lambda piece: (piece.file, piece.second or 0.0))
    vectors: list[Tensor] = []
    size = encoder.batch_size
    for dense in (True, False):
        with encoder.attached(dense) as running:
            parts = (pieces[at : at + size] for at in range(0, len(pieces), size))
            vectors.append(torch.cat([running.embed(batch_of(part))[0] for part in parts]))
    count = min(NEIGHBOURS, len(pieces) - 2)
    timed = size if encoder.device.type == "cuda" else min(size, _TIMED)
    batch = batch_of([pieces[number % len(pieces)] for number in range(timed)]).to(encoder.device)
    times = interleave(
        {"dense": nullcontext, "compressed": encoder.attached},
        {name: partial(encoder.run, batch, name == "dense") for name in ("dense", "compressed")},
        device=encoder.device,
        rounds=ROUNDS,
    )
    return Comparison(
        pieces=len(pieces),
        neighbours=count,
        recall=recall(vectors[0], vectors[1], count),
        chance=count / (len(pieces) - 1),
        cosine=(vectors[0] * vectors[1]).sum(1).mean().item(),
        speedup=speedup(times["compressed"], times["dense"]),
        dense_rate=timed / median(times["dense"]),
        compressed_rate=timed / median(times["compressed"]),
        environment=environment(encoder.device, encoder.dtype, *libraries(encoder.model)),
    )


def recall(dense: Float[Tensor, "N D"], few: Float[Tensor, "N D"], count: int) -> float:
    """How many of the ``count`` nearest of each row, itself left out, are the same by both."""
    found = []
    for vectors in (dense, few):
        likeness = vectors @ vectors.T
        likeness.fill_diagonal_(-torch.inf)
        near = torch.zeros_like(likeness, dtype=torch.bool)
        found.append(near.scatter(1, likeness.topk(count).indices, True))
    return ((found[0] & found[1]).sum() / (count * len(dense))).item()
