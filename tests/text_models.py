"""Tiny text encoders of transformers, with weights that make every part matter."""

import torch
import transformers as hf

from transformers_models import of_this_release

SIZE = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
}
SPECIAL = {"bos_token_id": 0, "eos_token_id": 2, "mask_token_id": 3}
MODERN = {
    **SIZE,
    **SPECIAL,
    "cls_token_id": 0,
    "sep_token_id": 2,
    "local_attention": 8,
    "global_attn_every_n_layers": 2,
}
DISTIL = {
    "vocab_size": 60,
    "dim": 32,
    "n_layers": 4,
    "n_heads": 2,
    "hidden_dim": 48,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
}
FAMILIES = {
    "bert": ("BertModel", "BertConfig", SIZE),
    "roberta": ("RobertaModel", "RobertaConfig", SIZE),
    "xlm-roberta": ("XLMRobertaModel", "XLMRobertaConfig", SIZE),
    "camembert": ("CamembertModel", "CamembertConfig", SIZE),
    "data2vec": ("Data2VecTextModel", "Data2VecTextConfig", SIZE),
    "electra": ("ElectraModel", "ElectraConfig", {**SIZE, "embedding_size": 16}),
    "ernie": ("ErnieModel", "ErnieConfig", SIZE),
    "roberta pre-norm": ("RobertaPreLayerNormModel", "RobertaPreLayerNormConfig", SIZE),
    "distilbert": ("DistilBertModel", "DistilBertConfig", DISTIL),
    "mpnet": ("MPNetModel", "MPNetConfig", SIZE),
    "nomic": ("NomicBertModel", "NomicBertConfig", SIZE),
    "jina": ("JinaEmbeddingsV3Model", "JinaEmbeddingsV3Config", SIZE),
    "modernbert": ("ModernBertModel", "ModernBertConfig", MODERN),
    "eurobert": (
        "EuroBertModel",
        "EuroBertConfig",
        {**SIZE, **SPECIAL, "num_key_value_heads": 1},
    ),
}
# The release that brought a family, as it stands here.
SINCE = {"nomic": (5, 5), "jina": (5, 4), "eurobert": (5, 5)}
FAMILIES = of_this_release(FAMILIES, SINCE)
# What a block makes of its attention: the part whose output is the stream x' after it, or ends in
# the branch that is still to be added to the stream.
MIDDLES = {
    "distilbert": ("sa_layer_norm", False),
    "nomic": ("post_attention_layernorm", False),
    "jina": ("post_attention_layernorm", False),
    "modernbert": ("attn", True),
    "eurobert": ("self_attn", True),
}


def build(family, dtype=torch.float64, head=None, attention=None, **settings):
    name, config, own = FAMILIES[family]
    model = getattr(hf, name if head is None else name.removesuffix("Model") + head)
    if attention is not None:
        settings["attn_implementation"] = attention
    torch.manual_seed(0)
    made = model._from_config(getattr(hf, config)(**{**own, **settings})).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            scale = parameter[0].numel() ** -0.5 if parameter.ndim == 2 else 0.3
            parameter.normal_(1.0 if parameter.ndim == 1 else 0.0, scale)
    return made.to(dtype)


def sentences(lengths=(20, 20, 20)):
    """Token ids and mask: 0 is [CLS], 2 is [SEP], 1 is the padding on the right."""
    generator = torch.Generator().manual_seed(1)
    longest = max(lengths)
    ids = torch.randint(3, 60, (len(lengths), longest), generator=generator)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    ids[:, 0] = 0
    ids[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = 2
    return {"input_ids": ids.masked_fill(~mask, 1), "attention_mask": mask.long()}
