"""What a bench has run so far, on disk as it is computed, so that a stopped one goes on."""

from __future__ import annotations

import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from repshift.evaluation.tasks.store import Store
from repshift.measure.digest import digest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from repshift.evaluation.tasks.variants import Variant


class Outputs:
    """The outputs of all rows for a batch of images; kept in ``folder``, if there is one."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._store: Store | None = None

    def begin(
        self, model: nn.Module, runs: Sequence[tuple[Variant, int]], settings: dict[str, Any]
    ) -> None:
        """Say what they are made by: ``runs`` of a model, and all else that decides."""
        if self._folder is None:
            return
        state = model.state_dict()
        shapes = [(key, str(value.dtype), list(value.shape)) for key, value in state.items()]
        names = [row.identities[number] for row, number in runs]
        made_by = {"parameters": shapes, "weights": digest(state.values()), "runs": names}
        self._store = Store(self._folder, made_by | settings)

    def of(self, images: Tensor, run: Callable[[], list[Tensor]]) -> list[Tensor]:
        """What each of the runs gives for these images."""
        if self._store is None:
            return run()
        name = digest([images])
        if self._store.has(name):
            piece = self._store.read(name)
            return [piece[str(number)] for number in range(len(piece))]
        outputs = run()
        self._store.write(name, {str(number): one for number, one in enumerate(outputs)})
        return outputs

    def forget(self) -> None:
        """The results are written: what led to them is of no more use."""
        if self._store is not None:
            shutil.rmtree(self._store.folder, ignore_errors=True)
            with suppress(OSError):  # another bench is at work there
                self._store.folder.parent.rmdir()
