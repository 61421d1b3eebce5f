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

from harness import in_turn
from repshift.measure.speed import speedup
from repshift.runtime.attention import AttentionRecorder
from repshift.sequence.segments import Segments


class Masked(TorchFunctionMode):
    """Inside, attention does not see the padding of the batch."""

    def __init__(self, segments):
        super().__init__()
        self.mask = ~segments.padding[:, None, None]

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return func(*args, **{**kwargs, "attn_mask": self.mask})
        return func(*args, **kwargs)


def measure(name, count, mean, spread, *, rounds, seconds, device, dtype):
    """A row for each way: images a second through the blocks alone."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval().to(device, dtype)
    lengths = torch.normal(float(mean), float(spread), (count,)).round().clamp_min(2).long()
    segments = Segments.pack(lengths.to(device))
    middle = round(lengths.double().mean().item())
    rounded = Counter(16 * -(-length // 16) for length in segments.counts)

    def tokens(*shape):
        return torch.randn(*shape, model.embed_dim, device=device, dtype=dtype)

    def through(batches):
        return [model.blocks(batch) for batch in batches]

    batches = {
        "equal lengths (the bound)": [tokens(count, middle)],
        "end to end": [tokens(1, sum(segments.counts))],
        "padded, under a mask": [tokens(count, segments.longest)],
        "batched by length, in steps of 16": [
            tokens(number, length) for length, number in rounded.items()
        ],
        "one by one": [tokens(1, length) for length in segments.counts],
    }
    contexts = dict.fromkeys(batches, nullcontext)
    contexts["end to end"] = partial(AttentionRecorder, (), None, segments)
    contexts["padded, under a mask"] = partial(Masked, segments)
    runs = {way: partial(through, own) for way, own in batches.items()}
    times = in_turn(runs, contexts=contexts, device=device, rounds=rounds, seconds=seconds)
    bound, *_ = times.values()
    return [
        {
            "model": f"{name}, blocks",
            "batch": count,
            "method": way,
            "tokens": f"{mean} ± {spread}",
            "ms": 1e3 * median(taken),
            "images_per_s": count / median(taken),
            "vs_bound": speedup(taken, bound),
        }
        for way, taken in times.items()
    ]
