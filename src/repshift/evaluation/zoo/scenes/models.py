"""The models that answer questions about scenes, by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from repshift.evaluation.zoo.scenes import model as qwen
from repshift.evaluation.zoo.scenes import photos
from repshift.evaluation.zoo.scenes.language import KINDS
from repshift.evaluation.zoo.scenes.photographs import JUDGED, on_photograph

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from repshift.evaluation.zoo.scenes.held_out import Item


@dataclass(frozen=True)
class SceneModel:
    """A small vision-language model and what it is asked.

    Attributes:
        name: What it is called.
        kinds: Of questions that it was trained to answer.
        depth: Blocks of its tower and layers of its decoder.
        load: The trained model with this attention kernel.
        seen: What it is given beside the words, from their numbers [B, N], whether they are about
            films, of every image or film the frames, rows and columns of cells [V, 3], and all
            pixels from 0 to 255, or None where features are given.
        photographs: The grounds of what it is asked about; none are the textures.
    """

    name: str
    kinds: tuple[str, ...]
    depth: tuple[int, int]
    load: Callable[[str], Any]
    seen: Callable[[Tensor, bool, Tensor, Tensor | None], dict[str, Any]]
    photographs: tuple[str, ...] = ()

    def asked(self, items: Iterable[Item]) -> list[Item]:
        """The items of its kinds, on its grounds."""
        own = [item for item in items if item.question.kind in self.kinds]
        if not self.photographs:
            return own
        return [
            replace(item, scenes=tuple(on_photograph(one, self.photographs) for one in item.scenes))
            for item in own
        ]


SCENES_VLM = SceneModel(
    "scenes-vlm",
    KINDS,
    (qwen.TOWER["depth"], qwen.DECODER["num_hidden_layers"]),
    qwen.load_scenes,
    qwen.seen_by_scenes,
)
PHOTOS_VLM = SceneModel(
    "photos-vlm",
    tuple(kind for kind in KINDS if kind != "order"),  # it has seen no films
    (photos.TOWER["num_hidden_layers"], qwen.DECODER["num_hidden_layers"]),
    photos.load_photos,
    photos.seen_by_photos,
    JUDGED,
)
SCENE_MODELS = {model.name: model for model in (SCENES_VLM, PHOTOS_VLM)}
