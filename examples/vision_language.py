"""A vision-language model reads a quarter of an image's tokens; generate() goes on by itself."""

import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

from repshift import Keep, VisionLanguagePlan, compress

IMAGE = 290  # the id that stands for a token of the image
torch.manual_seed(0)
# A small model with random weights; for real use load one by from_pretrained, and its processor.
tower = {"model_type": "clip_vision_model", "image_size": 224, "patch_size": 14}
tower |= {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
text = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 4, "vocab_size": 300}
text |= {"intermediate_size": 128, "num_attention_heads": 4, "eos_token_id": None}
config = LlavaConfig(vision_config=tower, text_config=text, image_token_id=IMAGE)
model = LlavaForConditionalGeneration(config).eval()
prompt = [1, *[IMAGE] * 256, 11, 12, 13]
inputs = {"input_ids": torch.tensor([prompt]), "pixel_values": torch.randn(1, 3, 224, 224)}
inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])


def answer() -> list[int]:
    """The ids of eight words behind the prompt."""
    return model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, -8:].tolist()


print("dense:", answer())

with compress(model, VisionLanguagePlan(prompt=Keep(0.25))) as compression:
    print("a quarter of the image:", answer())
    print("tokens:", compression.counts[0])
    kept, dense = compression.cache_bytes
    print(f"key-value memory: {kept:,} of {dense:,} bytes")
    print(
        "kept of the first row of the grid:", compression.kept.mask(0)[0].nonzero()[:, 0].tolist()
    )
