"""A plan for 70 % of the FLOPs, found on unlabelled images with the dense model as the teacher."""

import torch

from repshift import compress, search_plan
from repshift.evaluation.zoo.digits import held_out_digits, load_digits_vit

model, (images, labels) = load_digits_vit(), held_out_digits()
found = search_plan(model, images[:32], flops=0.7)
print("found:", found.plan.method, found.plan.schedule)

with torch.inference_mode():
    dense = model(images).argmax(1)
    with compress(model, found.plan):
        few = model(images).argmax(1)
print(f"agrees with the dense model on {(few == dense).float().mean():.1%} of 540 digits")
for name, answers in (("dense", dense), ("found", few)):
    print(f"{name}: {(answers == labels).float().mean():.1%} right")
