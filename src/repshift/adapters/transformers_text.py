"""transformers: text encoders, BERT and its like, recognised as the vision ones are.

The first token ([CLS]) is a prefix token and the last real one ([SEP]) stays; padding leaves first.
Pad on the right, as these tokenizers do: with padding on the left the first token is no [CLS].
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from repshift.adapters.spec import EncoderSpec
from repshift.adapters.transformers_parts import UNREAD, at, cannot, runs
from repshift.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn


@dataclass(frozen=True)
class Layer:
    """Attribute paths in a block: what reads the stream after attention, and the attention.

    ``mlp`` is the module whose output is added to that stream; empty where a norm follows the
    addition, so that tokens merged before the MLP would not pass it as their mean.
    """

    middle: str
    attention: str
    mlp: str = ""
    positions: Mapping[str, str] = field(default_factory=dict)


_BERT = Layer("intermediate", "attention.self")
_ROTARY = {"position_embeddings": "bnd"}
_ROTARY_BERT = Layer("mlp", "self_attn", positions=_ROTARY)
LAYERS = {
    "BertLayer": _BERT,
    "RobertaLayer": _BERT,
    "XLMRobertaLayer": _BERT,
    "CamembertLayer": _BERT,
    "Data2VecTextLayer": _BERT,
    "ElectraLayer": _BERT,
    "ErnieLayer": _BERT,
    # The residual is added inside ``output``, after its dropout.
    "RobertaPreLayerNormLayer": Layer("intermediate", "attention.self", "output.dropout"),
    "TransformerBlock": Layer("ffn", "attention"),
    "MPNetLayer": Layer("intermediate", "attention.attn", positions={"position_bias": "bhnn"}),
    "NomicBertLayer": _ROTARY_BERT,
    "JinaEmbeddingsV3Layer": _ROTARY_BERT,
    "ModernBertEncoderLayer": Layer("mlp_norm", "attn", "mlp", _ROTARY),
    "EuroBertDecoderLayer": Layer("post_attention_layernorm", "self_attn", "mlp", _ROTARY),
}
# Where the blocks are.
ENCODERS = {
    "BertModel": "encoder.layer",
    "RobertaModel": "encoder.layer",
    "XLMRobertaModel": "encoder.layer",
    "CamembertModel": "encoder.layer",
    "Data2VecTextModel": "encoder.layer",
    "ElectraModel": "encoder.layer",
    "ErnieModel": "encoder.layer",
    "RobertaPreLayerNormModel": "encoder.layer",
    "DistilBertModel": "transformer.layer",
    "MPNetModel": "encoder.layer",
    "NomicBertModel": "layers",
    "JinaEmbeddingsV3Model": "layers",
    "ModernBertModel": "layers",
    "EuroBertModel": "layers",
}
# These read the first token alone, except where the configuration says otherwise.
HEADS = {encoder.removesuffix("Model") + "ForSequenceClassification" for encoder in ENCODERS}

_DECODER = "it is a decoder: its tokens see only those before them, and a cache counts them"
_RELATIVE = "its attention forms relative positions itself, from the number of tokens"
_FIRST_BLOCK = "its first block forms the relative positions of all tokens"
_SPARSE = "it attends by position in the sequence, in windows or in blocks"
# By how the name of the class begins.
REFUSED = {
    "Albert": "its blocks are one block, run again and again",
    "Deberta": _RELATIVE,
    "T5Encoder": _FIRST_BLOCK,
    "MT5Encoder": _FIRST_BLOCK,
    "UMT5Encoder": _RELATIVE,
    "XLNet": _RELATIVE,
    "BigBird": _SPARSE,
    "Longformer": _SPARSE,
    "Funnel": "it pools its tokens from stage to stage",
    "FNet": "it mixes its tokens by a Fourier transform over all places",
    "ConvBert": "it mixes neighbouring tokens by convolution",
    "SqueezeBert": "its blocks take [B, C, N]",
    "MobileBert": "its blocks carry a narrow stream beside the tokens",
    "ModernBertDecoder": _DECODER,
    "GPT2Model": _DECODER,
    "LlamaModel": _DECODER,
    "MistralModel": _DECODER,
    "Qwen2Model": _DECODER,
    "Qwen3Model": _DECODER,
    "GemmaModel": _DECODER,
}
_DECODING = ("ForCausalLM", "LMHeadModel")
_EACH_TOKEN = ("ForMaskedLM", "ForTokenClassification", "ForQuestionAnswering", "ForPreTraining")


def knows(model: nn.Module) -> bool:
    """Whether this module can say what ``model`` is, be it a refusal."""
    name = type(model).__name__
    return bool(
        runs(model) in ENCODERS
        or runs(model) in HEADS
        or name.startswith(tuple(REFUSED))
        or name.endswith(_DECODING)
        or _inside(model)
    )


def describe(model: nn.Module) -> EncoderSpec:
    """The spec of a text encoder of transformers; ``InputError`` with the reason if it has none."""
    inner: Any = at(model, _inside(model)) if runs(model) in HEADS else model
    if runs(inner) not in ENCODERS:
        raise InputError(_refusal(model))
    path = ENCODERS[runs(inner)]
    blocks: list[nn.Module] = list(at(inner, path))
    layers = [LAYERS[runs(block)] for block in blocks if runs(block) in LAYERS]
    attention = [at(block, row.attention) for block, row in zip(blocks, layers, strict=False)]
    looping = at(inner, path.rpartition(".")[0])
    read = len(layers) == len(blocks) and all(runs(part) for part in (looping, *attention))
    if not blocks or not read:
        raise InputError(cannot(model, f"{UNREAD} one of its parts"))
    if reason := _unfit(model, inner.config, attention):
        raise InputError(cannot(model, reason))
    # Flash attention takes the padding mask itself; the others take it spread over the queries.
    masks = "bn" if _kernel(inner.config, "flash") else "bhnn"
    return EncoderSpec(
        blocks=blocks,
        norm2=[at(block, row.middle) for block, row in zip(blocks, layers, strict=True)],
        mlp=[
            at(block, row.mlp) if row.mlp else None
            for block, row in zip(blocks, layers, strict=True)
        ],
        prefix_tokens=1,
        class_token=True,
        suffix_tokens=1,
        # The mask before the bias: the first of them tells the padding.
        positions={"attention_mask": masks, **layers[0].positions},
    )


def _kernel(config: Any, name: str) -> bool:
    return name in (config._attn_implementation or "")


def _inside(model: nn.Module) -> str:
    """The path of the text encoder that a model with a head runs; empty if there is none."""
    path = getattr(model, "base_model_prefix", "")
    inner = getattr(model, path, None) if path else None
    return path if inner is not None and runs(inner) in ENCODERS else ""


def _unfit(model: nn.Module, config: Any, attention: list[nn.Module]) -> str:
    """Why a model of known classes cannot lose tokens under this configuration, if it cannot."""
    causal = any(getattr(part, "is_causal", False) for part in attention)
    if causal or getattr(config, "is_decoder", False):
        return _DECODER
    if getattr(config, "chunk_size_feed_forward", 0):
        return "it runs its MLP in chunks of tokens; load it with chunk_size_feed_forward=0"
    pooling = getattr(config, "classifier_pooling", "cls")
    if runs(model) in HEADS and pooling not in ("cls", "bos"):
        return (
            "its head averages its tokens under the mask of all of them "
            f"(classifier_pooling={pooling!r}); compress model.{_inside(model)} and average what "
            "is left"
        )
    if _kernel(config, "flex"):
        return 'its flex_attention mask is fixed to all tokens; load it with "sdpa"'
    if _kernel(config, "flash") and any(
        getattr(part, "sliding_window", None) for part in attention
    ):
        return (
            "flash attention counts its sliding windows over the tokens that are left; load it "
            'with attn_implementation="sdpa"'
        )
    return ""


def _refusal(model: nn.Module) -> str:
    name, inside = type(model).__name__, _inside(model)
    if name.endswith(_DECODING):
        return cannot(model, _DECODER)
    if inside and name.endswith(_EACH_TOKEN):
        return cannot(
            model,
            f"it answers for every token; compress model.{inside} and put what it says back with "
            "compression.restore",
        )
    reasons = [reason for start, reason in REFUSED.items() if name.startswith(start)]
    text = cannot(model, reasons[0] if reasons else f"{UNREAD} this class")
    return text + (f". Compress model.{inside}, its encoder" if inside else "")
