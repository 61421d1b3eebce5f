"""Official UMT checkpoints, loaded strictly: every weight is there, or the file is refused."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from repshift.errors import InputError
from repshift.models.umt.answering import AnsweringModel
from repshift.models.umt.config import CONFIGS, UMTConfig
from repshift.models.umt.retrieval import RetrievalModel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

Weights = dict[str, "Tensor"]

# What only pre-training uses: its teacher, what imitated the teacher, the masked words.
_PRETRAINING = ("clip_teacher.", "vision_encoder.clip_decoder.", "text_encoder.cls.")
_PATCHES = "vision_encoder.encoder.patch_embed.proj.weight"
_HEAD, _BERT = "text_decoder.cls.predictions.", "text_decoder.bert."
_TIED = {
    f"{_HEAD}decoder.weight": f"{_BERT}embeddings.word_embeddings.weight",
    f"{_HEAD}decoder.bias": f"{_HEAD}bias",
}


def load_retrieval(
    name: str, path: Path | str, pool: Literal["frames", "all"] = "frames"
) -> RetrievalModel:
    """A model for retrieval or multiple choice, fine-tuned or only pre-trained, in float32.

    ``name`` is ``umt-b16`` or ``umt-l16``; ``pool`` is explained at ``VisionEncoder``. Raises
    ``InputError`` that says what a wrong file looks like.
    """
    with torch.device("meta"):
        model = RetrievalModel(UMTConfig.named(name), pool)
    weights = read_weights(path)
    _check(model.state_dict(), weights, path, f"{name} for retrieval")
    model.load_state_dict(weights, assign=True)
    return model.eval()


def load_answering(name: str, path: Path | str) -> AnsweringModel:
    """A model fine-tuned for question answering, in float32; otherwise as ``load_retrieval``."""
    with torch.device("meta"):
        model = AnsweringModel(UMTConfig.named(name))
    weights = read_weights(path)
    # Files of a format that keeps no tensor twice have one of the two that are tied.
    for one, other in (*_TIED.items(), *((v, k) for k, v in _TIED.items())):
        if one not in weights and other in weights:
            weights[one] = weights[other]
    _check(model.state_dict(), weights, path, f"{name} for question answering")
    for one, other in _TIED.items():
        if not torch.equal(weights[one], weights[other]):
            raise InputError(f"{path} has two different tensors for {one} and {other}, one in UMT")
    model.load_state_dict(weights, assign=True)
    model.text_decoder.tie()
    return model.eval()


def read_weights(path: Path | str) -> Weights:
    """The weights of a file under the names used here, without what only pre-training uses.

    Takes a state dict or a training checkpoint that holds one as ``model``, saved by PyTorch or as
    safetensors. Nothing but tensors and plain values is ever unpickled.
    """
    content = _read(Path(path))
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if (
        not isinstance(content, dict)
        or not content
        or not all(isinstance(value, torch.Tensor) for value in content.values())
    ):
        raise InputError(f"{path} does not hold the weights of a model")
    weights: Weights = {}
    for key, tensor in content.items():
        # Pre-training files say text_encoder.bert., fine-tuned ones text_encoder.
        key = key.replace("text_encoder.bert.", "text_encoder.", 1)
        if not key.startswith(_PRETRAINING):
            weights[key] = tensor.float() if tensor.is_floating_point() else tensor
    return weights


def looks_like(weights: Mapping[str, Tensor]) -> str:
    """In a few words, whose weights these are."""
    if (patches := weights.get(_PATCHES)) is not None:
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


def _check(ours: Mapping[str, Tensor], theirs: Weights, path: Path | str, wanted: str) -> None:
    shapes = [key for key in ours.keys() & theirs.keys() if ours[key].shape != theirs[key].shape]
    wrong = {
        "missing": ours.keys() - theirs.keys(),
        "unknown": theirs.keys() - ours.keys(),
        "of another shape": shapes,
    }
    if any(wrong.values()):
        raise InputError(
            f"{path} is not {wanted}; it looks like {looks_like(theirs)}: "
            + "; ".join(f"{len(k)} {what} ({_few(k)})" for what, k in wrong.items() if k)
        )


def _few(keys: Iterable[str]) -> str:
    first, *rest = sorted(keys)
    return ", ".join([first, *rest[:2], *(["..."] if rest[2:] else [])])


def _read(path: Path) -> object:
    if not path.is_file():
        raise InputError(f"the checkpoint {path} is not a file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        # Training checkpoints carry their settings in a class of the reference's own, a
        # dictionary; it is read as a plain one.
        names = ("utils.easydict.EasyDict", "easydict.EasyDict")
        known: list[Any] = [(OrderedDict, name) for name in names]
        with torch.serialization.safe_globals(known):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"the checkpoint {path} is damaged, or holds more than weights and plain values, which "
            f"is not unpickled here ({_reason(error)}); if you trust it, save its state dict alone"
        ) from None
    except Exception as error:  # the readers raise whatever a broken file makes them stumble on
        raise InputError(f"the checkpoint {path} cannot be read: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """What a reader says first; PyTorch puts it behind advice of its own."""
    text = str(error).partition("WeightsUnpickler error: ")[2] or str(error)
    return f"{type(error).__name__}: {text.partition(chr(10))[0].partition('. ')[0]}"
