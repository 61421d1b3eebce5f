"""The engine of this machine: processes decode, this one embeds."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from repshift.evaluation.collection.indexing import Done
from repshift.evaluation.collection.pieces import End, Piece, Pieces, batch_of, read_pieces
from repshift.evaluation.collection.table import Row

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    import numpy as np
    from jaxtyping import Float

    from repshift.evaluation.collection.encoder import Encoder, Running
    from repshift.evaluation.collection.places import Found


@dataclass
class Local:
    """Embeds files with ``workers`` processes that decode; ``seconds`` as in ``Pieces``.

    ``encoding`` counts the seconds in which the encoder was at work.
    """

    encoder: Encoder
    workers: int
    seconds: float
    encoding: float = field(default=0.0, init=False)

    def __call__(self, files: Sequence[Found]) -> Generator[Done, None, None]:
        """Each file once all its pieces are embedded."""
        if not files:
            return
        pieces = Pieces(files, self.encoder.see, self.seconds)
        waiting: list[Piece | End] = []
        rows: dict[int, list[Row]] = {}
        with self.encoder.attached() as running, closing(read_pieces(pieces, self.workers)) as read:
            for one in read:
                waiting.append(one)
                if sum(isinstance(w, Piece) for w in waiting) == self.encoder.batch_size:
                    yield from self._done(running, files, waiting, rows)
                    waiting = []
            yield from self._done(running, files, waiting, rows)

    def _done(
        self,
        running: Running,
        files: Sequence[Found],
        waiting: Sequence[Piece | End],
        rows: dict[int, list[Row]],
    ) -> Generator[Done, None, None]:
        """Embed the pieces and give the files that end among them."""
        batch = [one for one in waiting if isinstance(one, Piece)]
        if batch:
            start = time.perf_counter()
            vectors, kept = running.embed(batch_of(batch))
            self.encoding += time.perf_counter() - start
            for piece, vector, count in zip(batch, vectors.numpy(), kept, strict=True):
                row = row_of(files[piece.file], piece, vector, count)
                rows.setdefault(piece.file, []).append(row)
        for one in waiting:
            if isinstance(one, End):
                file, own = files[one.file], rows.pop(one.file, [])
                yield Done(file, own if one.reason is None else (), one.reason)


def row_of(file: Found, piece: Piece, vector: Float[np.ndarray, " D"], kept: int) -> Row:
    """A piece in the table."""
    return Row(file.path, piece.second, file.size, file.modified, kept, piece.thumbnail, vector)
