"""Small transformers models of every family claimed, with weights drawn anew (see models.py)."""

import torch
import transformers

SIZE = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
IMAGE = {**SIZE, "intermediate_size": 64, "image_size": 40, "patch_size": 8}
VIDEO = {**SIZE, "intermediate_size": 64, "image_size": 24, "num_frames": 4}
RATIO = {**SIZE, "image_size": 40, "patch_size": 8, "mlp_ratio": 2}
AUDIO = {
    **SIZE,
    "intermediate_size": 64,
    "patch_size": 8,
    "frequency_stride": 8,
    "time_stride": 8,
    "max_length": 40,
    "num_mel_bins": 32,
}
JEPA = {**SIZE, "crop_size": 24, "patch_size": 8, "frames_per_clip": 4, "tubelet_size": 2}
JEPA |= {"mlp_ratio": 2.0, "num_pooler_layers": 1, "pred_num_hidden_layers": 1}
JEPA |= {"pred_hidden_size": 32, "pred_num_attention_heads": 2}
GQA = {"num_key_value_heads_per_layer": [2, 1, 1, 2]}
TWO = {"num_register_tokens": 2}
MEAN = {"use_mean_pooling": True}
ABSOLUTE = {"use_absolute_position_embeddings": True}

# Family: model class, its config class, settings.
FAMILIES = {
    "vit": ("ViTModel", "ViTConfig", IMAGE),
    "deit": ("DeiTModel", "DeiTConfig", IMAGE),
    "vit msn": ("ViTMSNModel", "ViTMSNConfig", IMAGE),
    "ijepa": ("IJepaModel", "IJepaConfig", IMAGE),
    "pixio": ("PixioModel", "PixioConfig", {**RATIO, "n_cls_tokens": 3}),
    "beit": ("BeitModel", "BeitConfig", {**IMAGE, **ABSOLUTE}),
    "data2vec": ("Data2VecVisionModel", "Data2VecVisionConfig", {**IMAGE, **ABSOLUTE}),
    "clip": ("CLIPVisionModel", "CLIPVisionConfig", IMAGE),
    "clip with projection": ("CLIPVisionModelWithProjection", "CLIPVisionConfig", IMAGE),
    "metaclip 2": ("MetaClip2VisionModel", "MetaClip2VisionConfig", IMAGE),
    "altclip": ("AltCLIPVisionModel", "AltCLIPVisionConfig", IMAGE),
    "chinese clip": ("ChineseCLIPVisionModel", "ChineseCLIPVisionConfig", IMAGE),
    "siglip": ("SiglipVisionModel", "SiglipVisionConfig", IMAGE),
    "siglip 2": (
        "Siglip2VisionModel",
        "Siglip2VisionConfig",
        {**SIZE, "intermediate_size": 64, "patch_size": 8, "num_patches": 16},
    ),
    "aimv2": ("Aimv2VisionModel", "Aimv2VisionConfig", IMAGE),
    "dinov2": ("Dinov2Model", "Dinov2Config", RATIO),
    "dinov2 swiglu": ("Dinov2Model", "Dinov2Config", {**RATIO, "use_swiglu_ffn": True}),
    "dinov2 registers": (
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersConfig",
        {**RATIO, **TWO},
    ),
    "tipsv2": ("Tipsv2VisionModel", "Tipsv2VisionConfig", {**RATIO, **TWO}),
    "dinov3": ("DINOv3ViTModel", "DINOv3ViTConfig", {**IMAGE, **TWO}),
    "sapiens2": ("Sapiens2Model", "Sapiens2Config", {**IMAGE, **TWO, **GQA}),
    "vivit": ("VivitModel", "VivitConfig", {**VIDEO, "tubelet_size": [2, 8, 8]}),
    "videomae": ("VideoMAEModel", "VideoMAEConfig", {**VIDEO, "patch_size": 8}),
    "vjepa 2": ("VJEPA2ForVideoClassification", "VJEPA2Config", JEPA),
    "ast": ("ASTModel", "ASTConfig", AUDIO),
    "idefics 3": ("Idefics3VisionTransformer", "Idefics3VisionConfig", IMAGE),
    "smolvlm": ("SmolVLMVisionTransformer", "SmolVLMVisionConfig", IMAGE),
    "internvl": (
        "InternVLVisionModel",
        "InternVLVisionConfig",
        {**IMAGE, "image_size": [40, 40], "patch_size": [8, 8]},
    ),
}
# The release that brought a family, or its fused attention; all others are older than what we take.
SINCE = {
    "altclip": (5, 6),
    "chinese clip": (5, 6),
    "pixio": (5, 0),
    "sapiens2": (5, 10),
    "tipsv2": (5, 14),
}
RELEASE = tuple(map(int, transformers.__version__.split(".")[:2]))


def of_this_release(families, since):
    return {name: row for name, row in families.items() if since.get(name, (0, 0)) <= RELEASE}


FAMILIES = of_this_release(FAMILIES, SINCE)
# Heads that read the prefix tokens, and heads that average all tokens.
HEADS = {
    "vit": ("ViTForImageClassification", *FAMILIES["vit"][1:]),
    "deit": ("DeiTForImageClassification", *FAMILIES["deit"][1:]),
    "deit teacher": ("DeiTForImageClassificationWithTeacher", *FAMILIES["deit"][1:]),
    "vit msn": ("ViTMSNForImageClassification", *FAMILIES["vit msn"][1:]),
    "beit token": (
        "BeitForImageClassification",
        "BeitConfig",
        {**IMAGE, "use_mean_pooling": False},
    ),
    "vivit": ("VivitForVideoClassification", *FAMILIES["vivit"][1:]),
    "ast": ("ASTForAudioClassification", *FAMILIES["ast"][1:]),
}
AVERAGES = {
    "ijepa": ("IJepaForImageClassification", *FAMILIES["ijepa"][1:]),
    "beit": ("BeitForImageClassification", "BeitConfig", {**IMAGE, **ABSOLUTE, **MEAN}),
    "data2vec": (
        "Data2VecVisionForImageClassification",
        "Data2VecVisionConfig",
        {**IMAGE, **ABSOLUTE, **MEAN},
    ),
    "clip": ("CLIPForImageClassification", "CLIPConfig", {"vision_config": IMAGE}),
    "metaclip 2": ("MetaClip2ForImageClassification", "MetaClip2Config", {"vision_config": IMAGE}),
    "siglip": ("SiglipForImageClassification", "SiglipConfig", {"vision_config": IMAGE}),
    "dinov2": ("Dinov2ForImageClassification", *FAMILIES["dinov2"][1:]),
    "dinov2 registers": (
        "Dinov2WithRegistersForImageClassification",
        *FAMILIES["dinov2 registers"][1:],
    ),
    "videomae": (
        "VideoMAEForVideoClassification",
        "VideoMAEConfig",
        {**FAMILIES["videomae"][2], **MEAN},
    ),
}
SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1], "num_heads": [2]}
STAGES = {"num_encoder_blocks": 1, "depths": [1], "sr_ratios": [1], "hidden_sizes": [8]}
STAGES |= {"patch_sizes": [4], "strides": [4], "num_attention_heads": [1], "mlp_ratios": [1]}
# Family: model class, its config class, settings, and a part of the reason.
REFUSED = {
    "beit relative": (
        "BeitModel",
        "BeitConfig",
        {**IMAGE, "use_relative_position_bias": True},
        "relative",
    ),
    "beit shared": (
        "BeitModel",
        "BeitConfig",
        {**IMAGE, "use_shared_relative_position_bias": True},
        "relative",
    ),
    "data2vec relative": (
        "Data2VecVisionModel",
        "Data2VecVisionConfig",
        {**IMAGE, "use_relative_position_bias": True},
        "relative",
    ),
    "timesformer": ("TimesformerModel", "TimesformerConfig", {**VIDEO, "patch_size": 8}, "frame"),
    "swin": ("SwinModel", "SwinConfig", SWIN, "windows"),
    "swin v2": ("Swinv2Model", "Swinv2Config", SWIN, "windows"),
    "hiera": (
        "HieraModel",
        "HieraConfig",
        {
            "embed_dim": 8,
            "depths": [1],
            "num_heads": [1],
            "query_stride": [2, 2],
            "num_query_pool": 0,
            "image_size": [32, 32],
        },
        "pools",
    ),
    "segformer": ("SegformerModel", "SegformerConfig", STAGES, "pools"),
    "pvt": ("PvtModel", "PvtConfig", {**STAGES, "sequence_reduction_ratios": [1]}, "pools"),
    "vit mae": ("ViTMAEModel", "ViTMAEConfig", IMAGE, "at random"),
    "yolos": ("YolosModel", "YolosConfig", {**IMAGE, "image_size": [40, 40]}, "detection tokens"),
    "masked images": ("ViTForMaskedImageModeling", "ViTConfig", IMAGE, "model.vit"),
    "backbone": ("Dinov2Backbone", "Dinov2Config", RATIO, "back on the grid"),
    "mlcd": ("MLCDVisionModel", "MLCDVisionConfig", IMAGE, "one table"),
    "videomae first patch": (
        "VideoMAEForVideoClassification",
        "VideoMAEConfig",
        {**FAMILIES["videomae"][2], "use_mean_pooling": False},
        "first patch",
    ),
    "vjepa 2 with predictor": (
        "VJEPA2Model",
        "VJEPA2Config",
        JEPA,
        r"skip_predictor=True.*model\.encoder",
    ),
    "two towers": (
        "CLIPModel",
        "CLIPConfig",
        {"vision_config": IMAGE, "text_config": {**SIZE, "intermediate_size": 64}},
        r"CLIPVision(Model|Transformer): compress model\.vision_model",
    ),
    "unknown": (
        "ConvNextModel",
        "ConvNextConfig",
        {"hidden_sizes": [8], "depths": [1], "num_stages": 1},
        "was not checked with this class; supported are",
    ),
}


def build(row, dtype=torch.float32, **settings):
    """A model of a row of the tables, in evaluation mode."""
    name, config, own = row[:3]
    config = getattr(transformers, config)(**own)
    for part in (config, *(getattr(config, sub) for sub in config.sub_configs)):
        if part is not None:  # Sapiens2's backbone, in transformers 5.17
            part.num_labels = 5
    model = getattr(transformers, name)._from_config(config, **settings)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if parameter.ndim == 1 and not path.endswith("bias"):
                parameter.uniform_(0.5, 1.5)
            elif parameter.ndim == 2 or path.endswith(
                ("projection.weight", "patch_embedding.weight")
            ):
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            else:
                parameter.normal_(std=0.5)
    return model.eval().to(dtype)


def inputs(model, batch=2):
    """What the model takes, by the name of its first argument."""
    name, config = model.main_input_name, getattr(model.config, "vision_config", model.config)
    dtype = next(model.parameters()).dtype
    if name == "input_ids":  # of the model around the tower of Idefics 3
        name = "pixel_values"
    if name == "input_values":
        return {name: torch.randn(batch, config.max_length, config.num_mel_bins, dtype=dtype)}
    if model.config.model_type == "siglip2_vision_model":
        # Images of 4 x 5 and 3 x 6 patches, padded to 25 at batch 2.
        shapes = torch.tensor([[4, 5], [3, 6]] * batch)[:batch]
        mask = torch.arange(25) < shapes.prod(1, keepdim=True)
        pixels = torch.randn(batch, 25, 192, dtype=dtype)
        return {name: pixels, "pixel_attention_mask": mask.long(), "spatial_shapes": shapes}
    if name == "pixel_values_videos":
        return {name: torch.randn(batch, 4, 3, 24, 24, dtype=dtype)}
    if hasattr(config, "num_frames"):
        return {name: torch.randn(batch, 4, 3, 24, 24, dtype=dtype)}
    return {name: torch.randn(batch, 3, 40, 40, dtype=dtype)}


def run(model, **given):
    with torch.no_grad():
        return model(**(inputs(model) | given))


def first(output):
    """The logits of a head, or the tokens of an encoder."""
    return output["logits"] if "logits" in output else output["last_hidden_state"]
