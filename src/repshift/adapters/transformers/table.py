"""What was read of transformers 4.56 to 5.24: one row a class, with attribute paths as strings.

Where a part has moved from release to release, its paths stand in one string, the newest first:
``"layers|encoder.layer"``; the first that the model has is taken.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from repshift.runtime.carriers import AttentionMask, Carrier, PositionIds, Rotary

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True)
class Layer:
    """Attribute paths in a block; ``carriers`` are those of its further arguments.

    An empty ``mlp``: its output passes a norm together with the stream, so nothing can be merged
    before it.
    """

    norm2: str
    mlp: str
    attention: str
    carriers: Mapping[str, Carrier] = field(default_factory=dict)


@dataclass(frozen=True)
class Mean:
    """The pooling, by paths in the model; an empty ``tokens`` stands for the last block."""

    tokens: str
    average: str
    skipped: int | Callable[[Any], int]
    used: Callable[[Any], bool] = lambda config: True


@dataclass(frozen=True)
class Encoder:
    """Where the blocks are, how many prefix tokens they get; the first is a class token.

    ``suffix`` counts the last tokens of a text that stay ([SEP]). ``reader`` is the path of
    a pooling by attention, if any, which may take the padding mask of all tokens.
    """

    blocks: str
    prefix: int | Callable[[Any], int] = 1
    suffix: int = 0
    mean: Mean | None = None
    reader: str = ""


@dataclass(frozen=True)
class Head:
    """A model that runs the encoder at ``inside`` and reads its class tokens, or their mean."""

    inside: str
    mean: Mean | None = None


# Before 5.9 the residual is added inside ``output``, after its dropout.
_VIT = Layer("layernorm_after", "mlp|output.dropout", "attention")
_CLIP = Layer("layer_norm2", "mlp", "self_attn")
_BERT = Layer("intermediate", "", "attention")
_ROPE = {"position_embeddings": Rotary()}
_DINO = Layer("norm2", "mlp", "attention")
_TURNED = {"position_embeddings": Rotary("bnr")}
# Its rotary table is made inside each block, of the positions.
_BEFORE_5 = {"position_ids": Carrier("bn"), "sliding_window_mask": AttentionMask()}
_TURNED_BERT = Layer("mlp", "", "self_attn", _TURNED)
LAYERS = {
    "ViTLayer": _VIT,
    "DeiTLayer": _VIT,
    "ViTMSNLayer": _VIT,
    "IJepaLayer": _VIT,
    "PixioLayer": Layer("layernorm_after|norm2", "mlp", "attention"),
    "ASTLayer": _VIT,
    "VivitLayer": _VIT,
    "BeitLayer": Layer("layernorm_after", "mlp|output", "attention"),
    # The residual is added inside ``output``, after its dropout.
    "VideoMAELayer": Layer("layernorm_after", "output.dropout", "attention"),
    "Data2VecVisionLayer": Layer("layernorm_after", "output", "attention"),
    "CLIPEncoderLayer": _CLIP,
    "MetaClip2EncoderLayer": _CLIP,
    "AltCLIPEncoderLayer": _CLIP,
    "ChineseCLIPVisionLayer": _CLIP,
    "SiglipEncoderLayer": _CLIP,
    "Siglip2EncoderLayer": _CLIP,
    "Idefics3EncoderLayer": _CLIP,
    "SmolVLMEncoderLayer": _CLIP,
    "InternVLVisionLayer": _VIT,
    "Aimv2EncoderLayer": Layer("rms_norm2", "ffn", "attention"),
    "Dinov2Layer": _DINO,
    "Dinov2WithRegistersLayer": _DINO,
    "Tipsv2VisionLayer": _DINO,
    "DINOv3ViTLayer": Layer("norm2", "mlp", "attention", _ROPE),
    "Sapiens2Layer": Layer("norm2", "mlp", "attention", _ROPE),
    "VJEPA2Layer": Layer("norm2", "mlp", "attention", {"position_mask": PositionIds()}),
    "BertLayer": _BERT,
    "RobertaLayer": _BERT,
    "XLMRobertaLayer": _BERT,
    "CamembertLayer": _BERT,
    "ElectraLayer": _BERT,
    "Data2VecTextLayer": _BERT,
    "ErnieLayer": _BERT,
    # The residual is added inside ``output``, after its dropout.
    "RobertaPreLayerNormLayer": Layer("intermediate", "output.dropout", "attention"),
    "NomicBertLayer": _TURNED_BERT,
    "JinaEmbeddingsV3Layer": _TURNED_BERT,
    # Of DistilBERT; before 5.0 its mask has another name.
    "TransformerBlock": Layer("ffn", "", "attention", {"attn_mask": AttentionMask()}),
    "MPNetLayer": Layer("intermediate", "", "attention", {"position_bias": Carrier("bhnn")}),
    "ModernBertEncoderLayer": Layer("mlp_norm", "mlp", "attn", _TURNED | _BEFORE_5),
    "EuroBertDecoderLayer": Layer("post_attention_layernorm", "mlp", "self_attn", _TURNED),
}


def _registers(config: Any) -> int:
    return 1 + config.num_register_tokens


def _pools(config: Any) -> bool:
    return config.use_mean_pooling


_BEIT = Mean("layernorm", "pooler.layernorm", 1, _pools)
_LAYERS = "layers|encoder.layer"  # moved in 5.9
# Until 5.6 these models held a transformer, which held the blocks.
_CLIP_TOWER = Encoder("encoder.layers|vision_model.encoder.layers")
_SIGLIP_TOWER = Encoder(
    "encoder.layers|vision_model.encoder.layers", 0, reader="head|vision_model.head"
)
ENCODERS = {
    "ViTModel": Encoder(_LAYERS),
    "ViTMSNModel": Encoder(_LAYERS),
    "DeiTModel": Encoder(_LAYERS, 2),
    "ASTModel": Encoder(_LAYERS, 2),
    "IJepaModel": Encoder(_LAYERS, 0),
    "PixioModel": Encoder(_LAYERS, lambda config: config.n_cls_tokens),
    "BeitModel": Encoder(_LAYERS, 1, mean=_BEIT),
    "Data2VecVisionModel": Encoder("encoder.layer", 1, mean=_BEIT),
    "VivitModel": Encoder(_LAYERS),
    "VideoMAEModel": Encoder("encoder.layer", 0),
    "VJEPA2Encoder": Encoder("layer", 0),
    **{
        f"{name}Vision{kind}": _CLIP_TOWER
        for name in ("CLIP", "MetaClip2", "AltCLIP", "ChineseCLIP")
        for kind in ("Model", "Transformer")
    },
    **{
        f"{name}Vision{kind}": _SIGLIP_TOWER
        for name in ("Siglip", "Siglip2")
        for kind in ("Model", "Transformer")
    },
    "Aimv2VisionModel": Encoder("encoder.layers", 0, reader="head"),
    "Idefics3VisionTransformer": Encoder("encoder.layers", 0),
    "SmolVLMVisionTransformer": Encoder("encoder.layers", 0),
    "InternVLVisionModel": Encoder("encoder.layer"),
    "Dinov2Model": Encoder("encoder.layer"),
    "Dinov2WithRegistersModel": Encoder("encoder.layer", _registers),
    "Tipsv2VisionModel": Encoder("encoder.layer", _registers),
    "DINOv3ViTModel": Encoder("model.layer|layer", _registers),
    "Sapiens2Model": Encoder("model.layer|layer", _registers),
    # Texts: [CLS] first, [SEP] last.
    "BertModel": Encoder("encoder.layer", suffix=1),
    "RobertaModel": Encoder("encoder.layer", suffix=1),
    "XLMRobertaModel": Encoder("encoder.layer", suffix=1),
    "CamembertModel": Encoder("encoder.layer", suffix=1),
    "ElectraModel": Encoder("encoder.layer", suffix=1),
    "DistilBertModel": Encoder("transformer.layer", suffix=1),
    "MPNetModel": Encoder("encoder.layer", suffix=1),
    "ModernBertModel": Encoder("layers", suffix=1),
    "Data2VecTextModel": Encoder("encoder.layer", suffix=1),
    "ErnieModel": Encoder("encoder.layer", suffix=1),
    "RobertaPreLayerNormModel": Encoder("encoder.layer", suffix=1),
    "NomicBertModel": Encoder("layers", suffix=1),
    "JinaEmbeddingsV3Model": Encoder("layers", suffix=1),
    "EuroBertModel": Encoder("layers", suffix=1),
}
HEADS = {
    "ViTForImageClassification": Head("vit"),
    "ViTMSNForImageClassification": Head("vit"),
    "DeiTForImageClassification": Head("deit"),
    "DeiTForImageClassificationWithTeacher": Head("deit"),
    "ASTForAudioClassification": Head("audio_spectrogram_transformer"),
    "BeitForImageClassification": Head("beit"),
    "Data2VecVisionForImageClassification": Head("data2vec_vision"),
    "VivitForVideoClassification": Head("vivit"),
    "VJEPA2ForVideoClassification": Head("vjepa2.encoder"),
    "CLIPVisionModelWithProjection": Head("vision_model"),
    "MetaClip2VisionModelWithProjection": Head("vision_model"),
    "IJepaForImageClassification": Head("ijepa", Mean("ijepa.layernorm", "classifier", 0)),
    "VideoMAEForVideoClassification": Head("videomae", Mean("", "fc_norm", 0, _pools)),
    "CLIPForImageClassification": Head("vision_model", Mean("", "classifier", 1)),
    "MetaClip2ForImageClassification": Head("vision_model", Mean("", "classifier", 1)),
    "SiglipForImageClassification": Head(
        "vision_model", Mean("vision_model.post_layernorm", "classifier", 0)
    ),
    "BertForSequenceClassification": Head("bert"),
    "RobertaForSequenceClassification": Head("roberta"),
    "XLMRobertaForSequenceClassification": Head("roberta"),
    "CamembertForSequenceClassification": Head("roberta"),
    "ElectraForSequenceClassification": Head("electra"),
    "DistilBertForSequenceClassification": Head("distilbert"),
    "MPNetForSequenceClassification": Head("mpnet"),
    "ModernBertForSequenceClassification": Head("model"),
    "Data2VecTextForSequenceClassification": Head("data2vec_text"),
    "ErnieForSequenceClassification": Head("ernie"),
    "RobertaPreLayerNormForSequenceClassification": Head("roberta_prelayernorm"),
    "NomicBertForSequenceClassification": Head("nomic_bert"),
    "JinaEmbeddingsV3ForSequenceClassification": Head("roberta"),
    "EuroBertForSequenceClassification": Head("model"),
    # These put the class token before the mean.
    "Dinov2ForImageClassification": Head("dinov2", Mean("dinov2.layernorm", "classifier", 1)),
    "Dinov2WithRegistersForImageClassification": Head(
        "dinov2_with_registers",
        Mean("dinov2_with_registers.layernorm", "classifier", _registers),
    ),
}

_WINDOWS = "it attends inside fixed windows of the grid"
_POOLED = "it pools its tokens on the grid from stage to stage"
_WORDS = "it gives one output for every word"
_CAUSAL = "it writes text: each next word asks for all those before it"
_RELATIVE = "it forms relative positions itself, from the number of tokens"
_GRID = "it puts its tokens back on the grid, one for every patch"
# By how the name of the class begins, or ends.
REFUSED = {
    "Swin": _WINDOWS,
    "DonutSwin": _WINDOWS,
    "MaskFormerSwin": _WINDOWS,
    "Dinat": _WINDOWS,
    "VitDet": _WINDOWS,
    "Sam": _WINDOWS,
    "Hiera": _POOLED,
    "Segformer": _POOLED,
    "Pvt": _POOLED,
    "Cvt": _POOLED,
    "Levit": _POOLED,
    "MobileViT": _POOLED,
    "Timesformer": "it attends within a frame, then across frames at one place of the grid",
    "ViTMAE": "it hides most patches at random itself, and its decoder asks for their places",
    "Yolos": "its detection tokens stand behind the patches and its middle positions are a grid",
    "MLCD": "its attention takes one table of positions for all images",
    "Siglip2ForImage": "it averages its tokens under the padding mask of all patches",
    "VJEPA2Model": "its predictor takes the tokens for the first places of the grid (call the "
    "model with skip_predictor=True)",
    "Timm": "it runs a model of timm; compress model.timm_model",
    "Albert": "its blocks are one block, run again and again",
    "Deberta": _RELATIVE,
    "T5Encoder": _RELATIVE,
    "MT5Encoder": _RELATIVE,
    "UMT5Encoder": _RELATIVE,
}
ENDINGS = {
    "LMHeadModel": _CAUSAL,
    "ForCausalLM": _CAUSAL,
    "ForMaskedLM": _WORDS,
    "ForTokenClassification": _WORDS,
    "ForQuestionAnswering": _WORDS,
    "Backbone": _GRID,
    "ForMaskedImageModeling": _GRID,
    "ForSemanticSegmentation": _GRID,
    "ForDepthEstimation": _GRID,
    "ForPreTraining": "its decoder asks for every patch",
}
