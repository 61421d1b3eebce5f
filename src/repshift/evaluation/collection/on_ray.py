"""The engine of a cluster: Ray Data reads and embeds; files stream in, rows stream out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from repshift.evaluation.collection.carried import Carried
from repshift.evaluation.collection.encoder import Encoder
from repshift.evaluation.collection.indexing import Done
from repshift.evaluation.collection.local import row_of
from repshift.evaluation.collection.models import Named, open_encoder
from repshift.evaluation.collection.pieces import Piece, Pieces
from repshift.evaluation.collection.places import Found
from repshift.evaluation.collection.table import Row
from repshift.evaluation.data.batches import stacked
from repshift.evaluation.imports import needed

if TYPE_CHECKING:
    from collections.abc import Generator

# Columns by name, as Ray Data hands them on: one entry for each piece and for each end of a file.
Columns = dict[str, Any]


@dataclass
class OnRay:
    """Embeds files on all machines that Ray knows, one encoder for each device.

    Without a cluster (``RAY_ADDRESS``, or one that runs on this machine), Ray starts on this
    machine. The rows are those of ``Local``: every batch is filled up to the same size.
    """

    named: Named
    encoder: Encoder
    seconds: float

    def __call__(self, files: Sequence[Found]) -> Generator[Done, None, None]:
        """Each file once all its pieces are embedded."""
        if not files:
            return
        ray, data = needed("ray", "ray"), needed("ray.data", "ray")
        if not ray.is_initialized():
            ray.init(logging_level="ERROR", log_to_driver=False, include_dashboard=False)
        data.DataContext.get_current().enable_progress_bars = False
        on_gpu = self.named.device.type == "cuda"
        devices = int(ray.cluster_resources().get("GPU", 0)) if on_gpu else 1
        read = _Read(Carried(Pieces(files, self.encoder.see, self.seconds)))
        rows = (
            data.from_items([{"file": number} for number in range(len(files))])
            .map_batches(read, batch_size=1)
            .map_batches(
                _Embed,
                fn_constructor_args=(Carried(self.named),),
                batch_size=self.named.batch_size,
                compute=data.ActorPoolStrategy(size=max(1, devices)),
                num_gpus=1 if on_gpu else 0,
            )
        )
        yield from _whole(files, rows.iter_batches(batch_size=None))


@dataclass
class _Read:
    """Files to their pieces, each as soon as it is decoded, and an entry for the end of each."""

    pieces: Carried

    def __call__(self, batch: Columns) -> Iterator[Columns]:
        for number in batch["file"]:
            for one in self.pieces.value.read(int(number)):
                yield (
                    _sent(one)
                    if isinstance(one, Piece)
                    else _entry(one.file, pieces=one.pieces, reason=one.reason or "")
                )


class _Embed:
    """One encoder; it stays where it is, and batches come to it."""

    def __init__(self, named: Carried) -> None:
        self.encoder = open_encoder(named.value)

    def __call__(self, batch: Columns) -> Columns:
        seen = [number for number, pieces in enumerate(batch["pieces"]) if pieces < 0]
        count = len(batch["pieces"])
        vectors, kept = [b""] * count, np.zeros(count, np.int64)
        if seen:
            given = stacked([_received(batch, number) for number in seen])
            with self.encoder.attached() as running:
                found, kept[seen] = running.embed(given)
            for number, vector in zip(seen, found.numpy(), strict=True):
                vectors[number] = vector.tobytes()
        columns = ("file", "second", "thumbnail", "pieces", "reason")
        return {name: batch[name] for name in columns} | {"vector": vectors, "kept": kept}


def _sent(piece: Piece) -> Columns:
    pixels = piece.seen.contiguous().numpy()
    return _entry(
        piece.file, np.nan if piece.second is None else piece.second, piece.thumbnail,
        pixels.tobytes(), str(pixels.dtype), list(pixels.shape),
    )  # fmt: skip


def _received(batch: Columns, number: int) -> torch.Tensor:
    pixels = np.frombuffer(bytearray(batch["seen"][number]), batch["dtype"][number])
    return torch.from_numpy(pixels.reshape([int(side) for side in batch["shape"][number]]))


def _entry(
    file: int, second: float = np.nan, thumbnail: bytes = b"", seen: bytes = b"",
    dtype: str = "", shape: Sequence[int] = (0,), pieces: int = -1, reason: str = "",
) -> Columns:  # fmt: skip
    """One row of a dataset; ``pieces`` is -1 but at the end of a file."""
    return {
        "file": [file], "second": [second], "thumbnail": [thumbnail], "seen": [seen],
        "dtype": [dtype], "shape": [list(shape)], "pieces": [pieces], "reason": [reason],
    }  # fmt: skip


def _whole(files: Sequence[Found], batches: Iterable[Columns]) -> Iterator[Done]:
    """Each file when its end and all its pieces have come, in whatever order."""
    rows: dict[int, list[Row]] = defaultdict(list)
    ends: dict[int, tuple[int, str]] = {}
    for batch in batches:
        for number in range(len(batch["file"])):
            file = int(batch["file"][number])
            if (pieces := int(batch["pieces"][number])) >= 0:
                ends[file] = pieces, str(batch["reason"][number])
            else:
                second = float(batch["second"][number])
                piece = Piece(
                    file, None if np.isnan(second) else second, torch.empty(0),
                    bytes(batch["thumbnail"][number]),
                )  # fmt: skip
                vector = np.frombuffer(batch["vector"][number], np.float32)
                rows[file].append(row_of(files[file], piece, vector, int(batch["kept"][number])))
            if file in ends and len(rows[file]) == ends[file][0]:
                reason = ends.pop(file)[1]
                yield Done(files[file], () if reason else rows.pop(file), reason or None)
