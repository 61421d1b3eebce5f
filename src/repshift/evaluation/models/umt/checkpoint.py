"""Official UMT checkpoints, loaded strictly: every weight is there, or the file is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeVar

import torch

from repshift.errors import InputError
from repshift.evaluation.models.checkpoint import Weights, check, read_state_dict
from repshift.evaluation.models.umt.answering import AnsweringModel
from repshift.evaluation.models.umt.config import CONFIGS, UMTConfig
from repshift.evaluation.models.umt.retrieval import RetrievalModel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

# What only pre-training uses: its teacher, what imitated the teacher, the masked words.
_PRETRAINING = ("clip_teacher.", "vision_encoder.clip_decoder.", "text_encoder.cls.")
_PATCHES = "vision_encoder.encoder.patch_embed.proj.weight"
_TEXT_MLP = "text_encoder.encoder.layer.0.intermediate.dense.weight"
_HEAD, _BERT = "text_decoder.cls.predictions.", "text_decoder.bert."
_TIED = {
    f"{_HEAD}decoder.weight": f"{_BERT}embeddings.word_embeddings.weight",
    f"{_HEAD}decoder.bias": f"{_HEAD}bias",
}
Model = TypeVar("Model", RetrievalModel, AnsweringModel)


def load_retrieval(
    config: UMTConfig | str, path: Path | str, pool: Literal["frames", "all"] = "frames"
) -> RetrievalModel:
    """A model for retrieval or multiple choice, fine-tuned or only pre-trained, in float32.

    Args:
        config: ``umt-b16``, ``umt-l16``, or the sizes of another UMT.
        path: The file, of PyTorch or safetensors.
        pool: Explained at ``VisionEncoder``.

    Returns:
        The model in evaluation mode.

    Raises:
        InputError: If the file holds other weights; it says what they look like.
    """
    config = _sizes(config)
    weights = read_weights(path)
    model = _empty(lambda sizes: RetrievalModel(sizes, pool), config, weights, path, "retrieval")
    model.load_state_dict(weights, assign=True)
    return model.eval()


def load_answering(config: UMTConfig | str, path: Path | str) -> AnsweringModel:
    """A model fine-tuned for question answering, in float32; otherwise as ``load_retrieval``."""
    config = _sizes(config)
    weights = read_weights(path)
    # Files of a format that keeps no tensor twice have one of the two that are tied.
    for one, other in (*_TIED.items(), *((v, k) for k, v in _TIED.items())):
        if one not in weights and other in weights:
            weights[one] = weights[other]
    model = _empty(AnsweringModel, config, weights, path, "question answering")
    for one, other in _TIED.items():
        if not torch.equal(weights[one], weights[other]):
            raise InputError(f"{path} has two different tensors for {one} and {other}, one in UMT")
    model.load_state_dict(weights, assign=True)
    model.text_decoder.tie()
    return model.eval()


def _sizes(config: UMTConfig | str) -> UMTConfig:
    return UMTConfig.named(config) if isinstance(config, str) else config


def _empty(
    make: Callable[[UMTConfig], Model],
    config: UMTConfig,
    weights: Weights,
    path: Path | str,
    task: str,
) -> Model:
    """The model that takes the weights, without any; ``InputError`` if it does not take these."""
    ours, text_mlp = config.text_mlp_width, weights.get(_TEXT_MLP)
    # All else is looked at first, so that a file of another model is not taken for one of this.
    theirs = len(text_mlp) if text_mlp is not None and text_mlp.ndim else ours
    same = config if ours == theirs else replace(config, text_mlp_ratio=theirs / config.text_width)
    with torch.device("meta"):
        model = make(same)
    check(model.state_dict(), weights, path, f"{config.name} for {task}", looks_like(weights))
    if ours != theirs:
        raise InputError(
            f"{path} has a text MLP {theirs} wide, and {config.name} has one of {ours} "
            f"({config.text_mlp_ratio:g} times its {config.text_width} channels); load it with "
            f"dataclasses.replace(config, text_mlp_ratio={theirs / config.text_width:g})"
        )
    return model


def read_weights(path: Path | str) -> Weights:
    """The weights of a file under the names used here, without what only pre-training uses."""
    weights: Weights = {}
    for key, tensor in read_state_dict(path).items():
        # Pre-training files say text_encoder.bert., fine-tuned ones text_encoder.
        key = key.replace("text_encoder.bert.", "text_encoder.", 1)
        if not key.startswith(_PRETRAINING):
            weights[key] = tensor
    return weights


def looks_like(weights: Mapping[str, Tensor]) -> str:
    """In a few words, whose weights these are."""
    if (patches := weights.get(_PATCHES)) is not None and patches.ndim:
        width = patches.shape[0]
        names = [config.name for config in CONFIGS.values() if config.vision_width == width]
        if any(key.startswith("text_decoder.") for key in weights):
            task = "question answering"
        else:
            task = "retrieval" if "itm_head.weight" in weights else "no task"
        return f"{names[0] if names else f'a UMT of width {width}'} for {task}"
    if "blocks.0.attn.qkv.weight" in weights:
        return "a vision transformer of timm, such as DeiT"
    return f"no UMT (its first key is {next(iter(weights), 'missing')})"
