"""Where the time of a reduction goes: microseconds of each of its steps, beside its block's."""

from functools import partial
from statistics import median

import torch
from timm.models.vision_transformer import Block

from repshift import Merge, Prune, Redundancy, Shift, ToMe, representation_shift
from repshift.reductions.bipartite import match
from repshift.reductions.prune import highest, nearest
from repshift.runtime.attention_kernels import AttentionCall, bias_as_channel
from repshift.scores import Snapshots

NEEDS = ("timm",)
COLUMNS = {
    "shape": "{shape}",
    "step": "{step}",
    "µs": "{us:.0f}",
    "of the block": "{share:.1%}",
}
# Images or videos, tokens, channels, heads, and tokens that are dropped.
SHAPES = {
    "DeiT-B, batch 64": (64, 197, 768, 12, 39),
    "ViT-L/16 at 384 pixels, batch 64": (64, 577, 1024, 16, 115),
    "UMT-L, batch 20": (20, 2352, 1024, 16, 470),
}
TINY = {"tiny, batch 2": (2, 17, 48, 3, 4)}


@torch.inference_mode()
def measure(label, setting):
    batch, count, width, heads, drop = {**SHAPES, **TINY}[label]
    torch.manual_seed(0)
    block = Block(width, heads).eval().to(setting.device, setting.dtype)
    before, after = (setting.random(batch, count, width) for _ in range(2))
    query, key, value = (setting.random(batch, heads, count, width // heads) for _ in range(3))
    seen = Snapshots(0, 1, after, entry=before, middle=before, exit=after, keys=key)
    scores = seen.guard(Shift()(seen))
    kept, dropped = highest(scores, drop)
    pruned, merged = Prune()(seen, scores, drop), Merge()(seen, scores, drop)
    matched = ToMe()(seen, scores, drop)
    size = 1 + torch.rand(batch, count, device=setting.device)
    call = AttentionCall(query, key, value)
    bias = size.log().to(setting.dtype)[:, None, None]

    def whole(score, reduction):
        reduction(seen, seen.guard(score(seen)), drop).apply(after, None)

    steps = {
        "block, dense": partial(block, before),
        "prune by the shift, all of it": partial(whole, Shift(), Prune()),
        "redundancy(mlp) + merge, all of it": partial(whole, Redundancy("mlp"), Merge()),
        "tome, all of it": lambda: ToMe()(seen, scores, drop).apply(after, None),
        "score: shift": partial(representation_shift, before, after),
        "score: redundancy(mlp)": partial(Redundancy("mlp"), seen),
        "choice: sort": partial(highest, scores, drop),
        "stand-ins: most similar kept token": partial(nearest, seen, kept, dropped),
        "matching: tome": lambda: match(key.mean(1), scores, drop, 1, ascending=True),
        "gather: prune": partial(pruned.apply, after, None),
        "gather and sum: merge": partial(merged.apply, after, None),
        "gather and sum: tome": partial(matched.apply, after, None),
        "attention, fused": call.fused,
        "attention, fused, sizes as one more channel": partial(bias_as_channel, call, size),
        "attention, fused, sizes as a mask": partial(call.fused, bias=bias),
        "attention, eager": partial(call.eager, size),
    }
    times = setting.in_turn(steps, seconds=setting.seconds / 10)
    dense = median(times["block, dense"])
    return [
        {"shape": label, "step": step, "us": 1e6 * median(taken), "share": median(taken) / dense}
        for step, taken in times.items()
    ]


def cases(setting):
    return {label: partial(measure, label, setting) for label in (TINY if setting.tiny else SHAPES)}
