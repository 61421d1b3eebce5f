"""Ways to run images of different lengths through the blocks of a ViT.

End to end in one sequence (what repshift does), padded under a mask, batched by length in steps of
16, and one by one; images of equal length are the bound.
"""

from collections import Counter
from contextlib import nullcontext
from functools import partial
from statistics import median

import timm
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from repshift.measure.speed import speedup
from repshift.runtime.attention import AttentionRecorder
from repshift.sequence.segments import Segments

MEAN, SPREAD = 128, 26  # tokens of an image


class Masked(TorchFunctionMode):
    """Inside, attention does not see the padding of the batch."""

    def __init__(self, segments):
        super().__init__()
        self.mask = ~segments.padding[:, None, None]

    def __torch_function__(self, func, types, args=(), kwargs=None):
        masked = {"attn_mask": self.mask} if func is F.scaled_dot_product_attention else {}
        return func(*args, **{**(kwargs or {}), **masked})


def measure(name, count, setting):
    """A row for each way: images a second through the blocks alone."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval().to(setting.device, setting.dtype)
    lengths = torch.normal(float(MEAN), float(SPREAD), (count,)).round().clamp_min(2).long()
    segments = Segments.pack(lengths.to(setting.device))
    rounded = Counter(16 * -(-length // 16) for length in segments.counts)
    shapes = {
        "equal lengths (the bound)": [(count, round(lengths.double().mean().item()))],
        "end to end": [(1, sum(segments.counts))],
        "padded, under a mask": [(count, segments.longest)],
        "batched by length, in steps of 16": [(many, length) for length, many in rounded.items()],
        "one by one": [(1, length) for length in segments.counts],
    }
    contexts = dict.fromkeys(shapes, nullcontext)
    contexts["end to end"] = partial(AttentionRecorder, (), None, segments)
    contexts["padded, under a mask"] = partial(Masked, segments)

    def through(batches):
        return [model.blocks(batch) for batch in batches]

    runs = {
        way: partial(through, [setting.random(*shape, model.embed_dim) for shape in own])
        for way, own in shapes.items()
    }
    times = setting.in_turn(runs, contexts=contexts)
    bound, *_ = times.values()
    where = {"model": f"{name}, blocks", "batch": count, "tokens": f"{MEAN} ± {SPREAD}"}
    return [
        where
        | {"method": way, "ms": 1e3 * median(taken), "images_per_s": count / median(taken)}
        | {"vs_bound": speedup(taken, bound)}
        for way, taken in times.items()
    ]
