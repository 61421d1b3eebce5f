"""The spec of a model of transformers.

A model is taken only if it, its blocks and their attention run the very forwards that ``table`` was
written from, so that an override is refused, never compressed wrongly. Nothing is imported from
transformers.
"""

from __future__ import annotations

import inspect
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from repshift.adapters.spec import EncoderSpec, Pooling
from repshift.adapters.transformers.mamba import MAMBAS, mamba_spec
from repshift.adapters.transformers.packed import PACKED, mergers_of, packed_spec
from repshift.adapters.transformers.release import check_release
from repshift.adapters.transformers.table import ENCODERS, ENDINGS, HEADS, LAYERS, REFUSED
from repshift.errors import InputError
from repshift.runtime.carriers import AttentionMask, PaddingMask

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from repshift.adapters.transformers.table import Encoder, Layer, Mean

_UNREAD = "repshift was not checked with"
_SUPPORTED = (
    "supported are ViTModel, CLIPVisionModel, Dinov2Model, BertModel and many more, with their "
    "classifiers (docs/models.md); for a model whose blocks take and return [B, N, C] alone, pass "
    "spec=EncoderSpec(blocks=..., norm2=..., prefix_tokens=...)"
)


def describe(model: nn.Module) -> EncoderSpec:
    """The spec of an encoder of transformers; ``InputError`` with the reason if it has none."""
    if (parts := MAMBAS.get(runs(model))) is not None:
        blocks: list[Any] = list(_at(model, "layers"))
        if any((runs(block), runs(_at(block, "mixer"))) != parts for block in blocks):
            raise InputError(_cannot(model, f"{_UNREAD} one of its parts"))
        return mamba_spec(model)
    if (parts := PACKED.get(runs(model))) is not None:
        check_release(f"the vision tower {type(model).__name__}", "5.23")
        read = [(runs(block), runs(block.attn), parts[2]) for block in model.blocks]  # type: ignore[union-attr]
        read += [(*parts[:2], runs(merger)) for merger in mergers_of(model)]
        if any(one != parts for one in read):
            raise InputError(_cannot(model, f"{_UNREAD} one of its parts"))
        return packed_spec(model)
    head = HEADS.get(runs(model))
    inner: Any = _at(model, head.inside) if head else model
    encoder = ENCODERS.get(runs(inner))
    if encoder is None:
        raise InputError(_refusal(model))
    blocks, layers = _read(model, inner, encoder.blocks)
    if any(type(part).__name__.endswith("RelativePositionBias") for part in inner.modules()):
        raise InputError(_cannot(model, "it adds a relative-position bias of the full grid"))
    if reason := _by_settings(encoder, inner.config, head is not None):
        raise InputError(_cannot(model, reason))
    prefix = _count(encoder.prefix, inner.config)
    averages = not head or not head.mean or head.mean.used(inner.config)
    if prefix == 0 and (not averages or getattr(inner, "pooler", None) is not None):
        raise InputError(_cannot(model, "its head reads the first patch, which may leave"))
    # Flash attention takes the padding mask itself.
    flash = "flash" in (inner.config._attn_implementation or "")
    mask = PaddingMask() if flash else AttentionMask()
    holder, mean = (model, head.mean) if head and head.mean else (inner, encoder.mean)
    reader = _reader(inner, encoder)
    return EncoderSpec(
        blocks=blocks,
        norm2=[_at(block, row.norm2) for block, row in zip(blocks, layers, strict=True)],
        prefix_tokens=prefix,
        class_token=prefix > 0,
        carriers={"attention_mask": mask, **layers[0].carriers},
        mlp=[
            _at(block, row.mlp) if row.mlp else None
            for block, row in zip(blocks, layers, strict=True)
        ],
        suffix_tokens=encoder.suffix,
        readers=[(reader, {"attention_mask": PaddingMask()})] if reader is not None else (),
        pooling=_pooling(holder, mean, blocks[-1], inner.config) if mean else None,
    )


def runs(module: nn.Module) -> str:
    """The name of the class in transformers whose forward the module runs; none of another's."""
    forward = inspect.unwrap(type(module).forward)
    name = forward.__qualname__.removesuffix(".forward")
    return name if (forward.__module__ or "").startswith("transformers.models.") else ""


def _find(module: nn.Module, paths: str) -> tuple[str, Any]:
    """The first of the paths, separated by ``|``, that the module has, and what is there."""
    for path in paths.split("|"):
        with suppress(AttributeError):
            return path, module.get_submodule(path)
    name = type(module).__name__
    raise InputError(
        f"transformers' {name} has no {paths.replace('|', ' or ')}; repshift has read it in "
        "transformers 4.56 to 5.24"
    )


def _at(module: nn.Module, paths: str) -> Any:
    return _find(module, paths)[1]


def _reader(inner: nn.Module, encoder: Encoder) -> nn.Module | None:
    """The pooling by attention; None where there is none, as in a model that was built without."""
    with suppress(InputError):
        return _at(inner, encoder.reader) if encoder.reader else None
    return None


def _read(model: nn.Module, inner: nn.Module, paths: str) -> tuple[list[nn.Module], list[Layer]]:
    """The blocks at ``paths``, each with its row; what runs around their parts must be known."""
    path, found = _find(inner, paths)
    blocks: list[nn.Module] = list(found)
    layers = [LAYERS[runs(block)] for block in blocks if runs(block) in LAYERS]
    attention = [_at(block, row.attention) for block, row in zip(blocks, layers, strict=False)]
    looping = _at(inner, path.rpartition(".")[0])
    if (
        not blocks
        or len(layers) < len(blocks)
        or not all(runs(part) for part in (looping, *attention))
    ):
        raise InputError(_cannot(model, f"{_UNREAD} one of its parts"))
    if any(layer.carriers != layers[0].carriers for layer in layers):
        raise InputError(_cannot(model, "its blocks take their positions in different ways"))
    return blocks, layers


def _by_settings(encoder: Encoder, config: Any, headed: bool) -> str | None:
    """Why a known model cannot be compressed as it is configured; None if it can."""
    if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
        return "it is configured as a decoder, whose next word asks for all those before it"
    if getattr(config, "chunk_size_feed_forward", 0):
        return "its MLP takes the tokens in chunks; set chunk_size_feed_forward to 0"
    if headed and getattr(config, "classifier_pooling", "cls") not in ("cls", "bos"):
        return (
            "it averages its tokens under the mask of all words; use the classifier_pooling of "
            'the first one, "cls" or "bos"'
        )
    kernel = config._attn_implementation or ""
    windows = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    if "flash" in kernel and (windows or getattr(config, "local_attention", 0)):
        return (
            "flash attention counts its sliding windows over the tokens that are left; load it "
            'with attn_implementation="sdpa"'
        )
    if "flex" in kernel and encoder.suffix:
        return (
            "the mask of flex_attention is made for all tokens; load it with "
            'attn_implementation="sdpa"'
        )
    return None


def _count(tokens: int | Callable[[Any], int], config: Any) -> int:
    return tokens if isinstance(tokens, int) else tokens(config)


def _pooling(model: nn.Module, mean: Mean, last: nn.Module, config: Any) -> Pooling | None:
    if not mean.used(config) or (mean.average == "pooler.layernorm" and model.pooler is None):
        return None
    tokens = _at(model, mean.tokens) if mean.tokens else last
    return Pooling(tokens, _at(model, mean.average), _count(mean.skipped, config))


def _cannot(model: nn.Module, reason: str) -> str:
    return f"transformers' {type(model).__name__} cannot be compressed: {reason}"


def _refusal(model: nn.Module) -> str:
    if _reads_image_tokens(model):
        return _cannot(
            model,
            "it is a vision-language model, which is compressed as a whole: "
            "compress(model, VisionLanguagePlan(prompt=Keep(0.25)))",
        )
    name = type(model).__name__
    reasons = [reason for start, reason in REFUSED.items() if name.startswith(start)]
    reasons += [reason for end, reason in ENDINGS.items() if name.endswith(end)]
    text = _cannot(model, reasons[0] if reasons else f"{_UNREAD} this class")
    known = ENCODERS | MAMBAS | PACKED
    found = [(path, part) for path, part in model.named_modules() if runs(part) in known]
    if found and found[0][0]:
        path, part = found[0]
        text += (
            f". It holds a {type(part).__name__}: compress model.{path}, if what reads its tokens "
            "takes any number of them"
        )
    elif not reasons:
        text += f"; {_SUPPORTED}"
    return text


def _reads_image_tokens(model: Any) -> bool:
    """Whether some words of its prompt stand for images."""
    names = ("image_token_id", "image_token_index")
    return any(hasattr(getattr(model, "config", None), name) for name in names)
