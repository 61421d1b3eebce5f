"""clips-umt: UMT in small, trained on generated clips (``scripts/train_clips.py``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repshift.evaluation.data.videos import Sampling
from repshift.evaluation.models.umt.answering import AnsweringModel
from repshift.evaluation.models.umt.config import UMTConfig
from repshift.evaluation.models.umt.retrieval import RetrievalModel
from repshift.evaluation.models.umt.tokenizer import Tokenizer
from repshift.evaluation.zoo import packaged
from repshift.evaluation.zoo.clips.language import vocabulary

if TYPE_CHECKING:
    from repshift.evaluation.zoo.packaged import Model

SAMPLING = Sampling(frames=8, size=80)  # 800 patches of 8 x 8
CONFIG = UMTConfig(
    "clips-umt",
    vision_width=96,
    vision_depth=6,
    vision_heads=3,
    text_width=96,
    text_depth=6,
    text_heads=3,
    fusion_layer=4,
    embed_width=96,
    patch=8,
    vocabulary=len(vocabulary()),
    positions=64,
)
WEIGHTS, VOCABULARY = "clips-umt.safetensors", "clips-vocab.txt"  # of repshift-zoo


def untrained_retrieval() -> RetrievalModel:
    """For ``scripts/train_clips.py``, which trains both at once."""
    return RetrievalModel(CONFIG, pool="all")


def untrained_answering() -> AnsweringModel:
    """With the same vision and text encoder as the model for retrieval."""
    return AnsweringModel(CONFIG)


def load_clips_retrieval() -> RetrievalModel:
    """The trained model for retrieval, in evaluation mode."""
    return _load(untrained_retrieval())


def load_clips_answering() -> AnsweringModel:
    """The trained model for question answering, in evaluation mode."""
    return _load(untrained_answering())


def tokenizer() -> Tokenizer:
    """Word pieces of the grammar."""
    return Tokenizer(packaged.weights_file(VOCABULARY), CONFIG.vocabulary, start=2)


def _load(model: Model) -> Model:
    file = packaged.weights_file(WEIGHTS)
    return packaged.load_packaged(model, file, "scripts/train_clips.py", several=True)
