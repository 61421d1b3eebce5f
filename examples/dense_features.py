"""Dense features from half of the tokens: a DINOv2 that runs offline, restored to its full grid."""

import torch
from torch.nn import functional as F

from repshift import Merge, Plan, Redundancy, compress
from repshift.evaluation.data.images import read_image, sample_photographs
from repshift.evaluation.zoo.load import load_model

loaded = load_model("saliency-vit-s14")
images = torch.stack([loaded.prepare(read_image(path)) for path in sample_photographs()[:4]])
encoder = loaded.model

with torch.inference_mode():
    dense = encoder.forward_features(images)  # [4, 257, 384]: class token and 16 x 16 patches
    plan = Plan({0: 0.2, 3: 0.2, 6: 0.2}, Redundancy("keys"), Merge())
    with compress(encoder, plan) as compression:
        few = encoder.forward_features(images)
        restored = compression.restore(few)

grid = restored[:, 1:].unflatten(1, loaded.grid)  # [4, 16, 16, 384]
likeness = F.cosine_similarity(restored[:, 1:], dense[:, 1:], dim=-1).mean()
print(f"{few.shape[1]} of {dense.shape[1]} tokens; restored to {tuple(grid.shape)}")
print(f"cosine to the dense features: {likeness:.3f}")
