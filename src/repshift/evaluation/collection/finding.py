"""Find in a table: by a text, by a photograph, by a video."""

from __future__ import annotations

import io
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from repshift.adapters import describe
from repshift.errors import InputError
from repshift.evaluation.collection.models import Named, open_encoder
from repshift.evaluation.collection.pieces import End, Piece, Pieces, batch_of
from repshift.evaluation.collection.places import SUFFIXES, VIDEOS, Found, find_one
from repshift.evaluation.collection.table import check_code, open_table, settings_of
from repshift.evaluation.report.names import save
from repshift.evaluation.report.pictures import pictures
from repshift.plan import Plan

if TYPE_CHECKING:
    from PIL.Image import Image

    from repshift.evaluation.collection.encoder import Encoder
    from repshift.evaluation.collection.table import Hit, Table


@dataclass(frozen=True)
class Finder:
    """A table and the encoder that made it. Several threads may ask, one after the other."""

    table: Table
    encoder: Encoder
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def by_text(self, text: str, count: int) -> list[Hit]:
        """What shows best what the text says; ``InputError`` if the model reads no texts."""
        if not text.strip():
            raise InputError("the text is empty; say what to look for")
        with self._turn, torch.inference_mode():
            vector = F.normalize(self.encoder.texts([text]).float(), dim=-1)[0]
        return self.table.nearest(vector.cpu().numpy(), count)

    def by_image(self, image: Image, count: int) -> list[Hit]:
        """What looks most like a photograph."""
        seen = self.encoder.see([image])
        with self._turn, self.encoder.attached() as running:
            vectors, _ = running.embed(seen[None])
        return self.table.nearest(vectors[0].numpy(), count)

    def by_file(self, path: Path, count: int) -> list[Hit]:
        """What looks most like a file: a photograph, or a video by the mean of its pieces."""
        pieces = Pieces([Found(str(path), 0, 0)], self.encoder.see, self.table.made_by["every"])
        read = list(pieces.read(0))
        reasons = [one.reason for one in read if isinstance(one, End) and one.reason is not None]
        if reasons:
            raise InputError(reasons[0])
        seen = batch_of([one for one in read if isinstance(one, Piece)])
        with self._turn, self.encoder.attached() as running:
            parts = [running.embed(part)[0] for part in seen.split(self.encoder.batch_size)]
        mean = F.normalize(torch.cat(parts).mean(0), dim=-1)
        return self.table.nearest(mean.numpy(), count)

    def kept_tokens(self, path: str, second: float | None) -> bytes:
        """A PNG: what the score sees of a row, and what is left after each reduction.

        ``InputError`` where there is no such row, its file is gone, or the model sees films.
        """
        loaded = self.encoder.loaded
        if loaded is None or not self.table.holds(path, second):
            raise InputError("there is no picture of the tokens that were kept")
        pieces = Pieces([find_one(path)], self.encoder.see, self.table.made_by["every"])
        read = (one for one in pieces.read(0) if isinstance(one, End) or one.second == second)
        piece = next(read)
        if isinstance(piece, End):
            raise InputError(piece.reason or f"{path} has changed; index again")
        with self._turn:
            spec, images = describe(loaded.model), piece.seen[None]
            drawn = pictures(loaded, spec, self.encoder.plan, images, [Path(path).name])
        if not drawn:
            raise InputError(f"the patches of {loaded.name} stand on no known grid")
        buffer = io.BytesIO()
        save(drawn[0], buffer, 80)
        return buffer.getvalue()

    def by_query(self, query: str, count: int) -> list[Hit]:
        """By a file if there is one of that name, else by a text."""
        if os.path.isfile(query):  # a text may be longer than the name of a file can be
            return self.by_file(Path(query), count)
        if Path(query).suffix.lower() in SUFFIXES | VIDEOS:
            raise InputError(f"{query} is not a file; pass one that is there, or a text")
        return self.by_text(query, count)


def open_finder(path: Path, device: torch.device) -> Finder:
    """The table with the encoder that made it; ``InputError`` if its weights are others by now."""
    table = open_table(path)
    made_by: dict[str, Any] = table.made_by
    named = Named(
        made_by["model"],
        Plan.from_json(made_by["plan"]),
        Path(made_by["checkpoint"]) if made_by["checkpoint"] else None,
        settings_of(made_by),
        batch_size=1,
        device=device,
        dtype=getattr(torch, made_by["dtype"]),
    )
    encoder = open_encoder(named)
    now = encoder.made_by
    if now["weights"] != made_by["weights"]:
        raise InputError(
            f"the weights of {made_by['model']} are others than those that made {path}; index again"
        )
    check_code(table, now)
    return Finder(table, encoder)
