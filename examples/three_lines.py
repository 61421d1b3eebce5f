"""A model of timm drops tokens: fewer FLOPs, the same call."""

import timm
import torch

from repshift import Plan, compress
from repshift.measure.flops import count_flops

model = timm.create_model("deit_tiny_patch16_224").eval()  # pretrained=True for real use
images = torch.randn(2, 3, 224, 224)


def gigaflops() -> float:
    """Multiply-adds of one image."""
    return count_flops(lambda: model(images))[0] / len(images) / 1e9


print(f"dense: 197 tokens, {gigaflops():.2f} GFLOPs")

with compress(model, Plan.paper("deit")) as compression:
    logits = model(images)
    print(f"compressed: {compression.counts[-1]} tokens, {gigaflops():.2f} GFLOPs")
    print("kept by the first image:", compression.kept[0][:8].tolist(), "...")
