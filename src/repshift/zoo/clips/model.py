"""clips-umt: UMT in small, trained on generated clips (``scripts/train_clips.py``)."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TypeVar

from repshift.data.videos import Sampling
from repshift.errors import InputError
from repshift.models.umt.answering import AnsweringModel
from repshift.models.umt.config import UMTConfig
from repshift.models.umt.retrieval import RetrievalModel
from repshift.models.umt.tokenizer import Tokenizer
from repshift.zoo.clips.language import vocabulary

Model = TypeVar("Model", RetrievalModel, AnsweringModel)
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
_FOLDER = Path(str(files("repshift"))) / "zoo" / "weights"
WEIGHTS, VOCABULARY = _FOLDER / "clips-umt.safetensors", _FOLDER / "clips-vocab.txt"


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
    return Tokenizer(VOCABULARY, CONFIG.vocabulary, start=2)


def _load(model: Model) -> Model:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        weights = load(WEIGHTS.read_bytes())  # of both models; float16 in the file, float32 here
        model.load_state_dict({key: weights[key] for key in model.state_dict()})
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise InputError(
            f"the weights of clips-umt cannot be read from {WEIGHTS}; install repshift again, or "
            f"train them with scripts/train_clips.py ({error})"
        ) from error
    return model.eval()
