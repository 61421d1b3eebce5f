"""A vision-language model's tower, prefill and words, dense and under plans, in turn.

    python benchmarks/vision_language.py --out docs/results/vision-language-cpu

A model of the shape of Qwen2.5-VL from a config, with random weights, since speed depends on them
as little as on the image. Each phase is timed by itself, all rows in turn: the tower; the prefill
on features that are there already; four more words on its cache. The first word takes tower and
prefill. Beside plans: fused and eager attention, an image of as many tokens as a plan keeps, and
pruning by the last query's attention map, which only eager attention gives (as FastV,
arXiv 2403.06764). The decision is all that is done for it inside the prefill, as a share of that.
"""

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import ClassVar
from unittest.mock import patch

import torch
import transformers

from harness import Dtype, Report, command
from repshift import Grid, Keep, Plan, Random, Score, Shift, VisionLanguagePlan, compress
from repshift.measure.flops import count_flops
from repshift.measure.speed import speedup
from repshift.vision_language import decoder
from repshift.vision_language.prompt import PromptSite

IMAGE = 5  # the id of a placeholder; words have the ids behind it
WORDS = 4  # written behind the prompt
LAYER = 2  # of the decoder: tokens are dropped after it
PHASES = {"tower": "tower", "prefill": "prefill", "word": "word", "first": "first word"}
COLUMNS = {
    "images": "{images}",
    "method": "{method}",
    "visual tokens": "{tokens}",
    "prefill GFLOPs": "{gflops:.3g}",
    **{f"{name} ms": f"{{{phase}_ms:.3g}}" for phase, name in PHASES.items()},
    "key-value MB": "{cache_mb:.3g}",
    **{name: f"{{{phase}_speedup:.2f}}x" for phase, name in PHASES.items()},
    "of FLOPs' gain": "{flop_share:.0%}",
    "decision": "{decision:.1%}",
}


@dataclass(frozen=True)
class Shape:
    """Depth, width, MLP and heads of the tower; the same and key heads of the decoder.

    ``side`` is that of an image, in patches.
    """

    tower: tuple[int, int, int, int]
    text: tuple[int, int, int, int, int]
    side: int
    vocabulary: int = 16384

    def config(self):
        depth, width, inner, heads = self.tower
        layers, channels, mlp, queries, keys = self.text
        half = channels // queries // 2
        sections = [half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8]
        rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}
        return transformers.Qwen2_5_VLConfig(
            vision_config={
                "depth": depth, "hidden_size": width, "intermediate_size": inner,
                "num_heads": heads, "out_hidden_size": channels,
                "fullatt_block_indexes": [depth // 2 - 1, depth - 1],
            },
            text_config={
                "num_hidden_layers": layers, "hidden_size": channels, "intermediate_size": mlp,
                "num_attention_heads": queries, "num_key_value_heads": keys,
                "vocab_size": self.vocabulary, "rope_parameters": rope, "pad_token_id": 0,
                "bos_token_id": None, "eos_token_id": None,
            },
            image_token_id=IMAGE, video_token_id=1, vision_start_token_id=2, vision_end_token_id=3,
        )  # fmt: skip


SHAPES = {
    "tiny": Shape((2, 32, 48, 2), (4, 64, 96, 4, 2), 8, 64),
    "0.2B": Shape((8, 640, 1720, 8), (12, 896, 4864, 14, 2), 64),
    "3B": Shape((32, 1280, 3420, 16), (36, 2048, 11008, 16, 2), 64),
}


@dataclass(frozen=True)
class LastAttention(Score):
    """The attention that the last token pays, the mean over heads: read off a map."""

    name: ClassVar[str] = "last-attention"
    seen: ClassVar[dict] = {}

    def __call__(self, snapshot):
        return self.seen["weights"].view(snapshot.tokens.shape[:2])


@dataclass(frozen=True)
class Row:
    """One way to run the model. ``share`` of the tokens by a smaller image."""

    label: str
    plan: VisionLanguagePlan | None = None
    eager: bool = False
    share: float = 1.0

    @property
    def tower(self):
        """Rows of which this is the same have the same features."""
        if self.eager:
            return EAGER.label
        own = self.plan and (self.plan.tower or (self.plan.prompt and self.plan.prompt.of_tower))
        return self.label if own or self.share < 1 else DENSE.label


def prompt(*keep, **how):
    return VisionLanguagePlan(prompt=Keep(*keep, **how))


def after_layer(score):
    return VisionLanguagePlan(decoder=Plan({LAYER: 0.75}, score))


BLOCK = Shift("block")
EVERYWHERE = VisionLanguagePlan(
    Plan({0: 0.3}, BLOCK), Keep(0.5, BLOCK, merge=False), Plan({LAYER: 0.5}, BLOCK)
)
DENSE = Row("dense, fused attention")
EAGER = Row("dense, eager attention", eager=True)
ROWS = [
    DENSE,
    EAGER,
    Row("dense, image of a quarter of the tokens", share=0.25),
    *(Row(f"prompt: {amount:.0%}, Keep(share)", prompt(amount)) for amount in (0.5, 0.25, 0.11)),
    Row("prompt: 25%, farthest, pruned", prompt(0.25, merge=False)),
    Row("prompt: 25%, grid, pruned", prompt(0.25, Grid(), merge=False)),
    Row("prompt: 25%, random, pruned", prompt(0.25, Random(), merge=False)),
    Row("prompt: 25%, random, merged", prompt(0.25, Random())),
    Row("decoder: shift(block)", after_layer(BLOCK)),
    Row("decoder: last attention, eager (FastV)", after_layer(LastAttention()), eager=True),
    Row("tower, prompt and decoder: shift(block)", EVERYWHERE),
]


class Bench:
    """A model and prompts of some images, each ahead of the same question."""

    def __init__(self, shape, images, setting):
        self.shape, self.images, self.setting = shape, images, setting
        torch.manual_seed(0)
        with setting.device:
            model = transformers.Qwen2_5_VLForConditionalGeneration._from_config(
                shape.config(), dtype=setting.dtype, attn_implementation="sdpa"
            )
        self.model = model.eval()
        self.inputs = {share: self._inputs(share) for share in {row.share for row in ROWS}}

    def _inputs(self, share):
        """Ids, patches and grids."""
        side, device = 2 * round(self.shape.side / 2 * share**0.5), self.setting.device
        words = torch.arange(IMAGE + 1, IMAGE + 31).tolist()
        ids = words[:15] + [2, *[IMAGE] * (side**2 // 4), 3] * self.images + words[15:]
        patches = self.setting.random(self.images * side**2, 3 * 2 * 14 * 14)
        grid = torch.tensor([[1, side, side]] * self.images, device=device)
        return torch.tensor([ids], device=device), patches, grid

    @contextmanager
    def attached(self, row):
        """The model as a row runs it; gives its compression, or None."""
        model = self.model
        with ExitStack() as stack:
            if row.eager:
                model.set_attn_implementation("eager")
                stack.callback(model.set_attn_implementation, "sdpa")
                attention = model.model.language_model.layers[LAYER].self_attn
                visual = self.inputs[row.share][0][0] == IMAGE
                handle = attention.register_forward_hook(partial(_read, visual))
                stack.callback(handle.remove)
            yield row.plan and stack.enter_context(compress(model, row.plan))

    def tower(self, row):
        """The features of the images."""
        _, patches, grid = self.inputs[row.share]
        return self.model.model.get_image_features(patches, grid)

    def prefill(self, row, features):
        """What the language model makes of the prompt."""
        ids, _, grid = self.inputs[row.share]
        return self.model(
            input_ids=ids, attention_mask=torch.ones_like(ids), image_grid_thw=grid,
            mm_token_type_ids=(ids == IMAGE).int(), mm_encoder_outputs={"image": features},
            logits_to_keep=1,
        )  # fmt: skip

    def write(self, cache):
        """Some words behind the prompt; the cache is then as before."""
        word = torch.full((1, 1), IMAGE + 1, device=self.setting.device)
        for _ in range(WORDS):
            self.model(word, cache=cache)
        cache.crop(-WORDS)

    def left(self, row, compression):
        """How many visual tokens there are, place by place."""
        if compression is None:
            return [int((self.inputs[row.share][0] == IMAGE).sum())]
        counts = compression.counts
        return [sum(image[place] for image in counts) for place in counts[0]]


def _read(visual, _, args, output):
    weights = output[1][0, :, -1].float().mean(0)
    if len(weights) == len(visual):  # the prompt, not a word behind it
        LastAttention.seen["weights"] = weights[visual]


@contextmanager
def deciding(device):
    """Collects the seconds of all that is done to decide and to let tokens leave."""
    spent = []

    def clocked(function):
        def run(*args):
            start = _now(device)
            try:
                return function(*args)
            finally:
                spent.append(_now(device) - start)

        return run

    done = [(PromptSite, "_decide"), (decoder.LayerSite, "_decide"), (decoder, "_leave")]
    with ExitStack() as stack:
        for owner, name in done:
            stack.enter_context(patch.object(owner, name, clocked(getattr(owner, name))))
        yield spent


def _now(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()


@torch.inference_mode()
def measure(shape, images, setting):
    """All rows for prompts of so many images; of several only those of fused attention."""
    rows = [row for row in ROWS if images == 1 or not row.eager]
    bench = Bench(SHAPES[shape], images, setting)
    features, caches, known, shares = {}, {}, {}, {row: [] for row in rows}
    for row in rows:
        with bench.attached(row) as compression:
            if row.tower == row.label:
                features[row.label] = bench.tower(row)
            prefill = partial(bench.prefill, row, features[row.tower])
            gflops, layers = count_flops(prefill)[0] / 1e9, prefill().cache.layers
            tokens = " → ".join(map(str, bench.left(row, compression)))
        megabytes = sum(one.keys.nbytes + one.values.nbytes for one in layers) / 1e6
        known[row] = {"tokens": tokens, "gflops": gflops, "cache_mb": megabytes}

    @contextmanager
    def written(row):
        """After a prefill, in which the decision is clocked."""
        with bench.attached(row), deciding(setting.device) as spent:
            start = _now(setting.device)
            caches[row] = bench.prefill(row, features[row.tower]).cache
            shares[row].append(sum(spent) / (_now(setting.device) - start))
            yield

    def timed(rows, context, run):
        contexts = {row.label: partial(context, row) for row in rows}
        return setting.in_turn({row.label: partial(run, row) for row in rows}, contexts)

    towers = timed([row for row in rows if row.label in features], bench.attached, bench.tower)
    prefills = timed(rows, bench.attached, lambda row: bench.prefill(row, features[row.tower]))
    words = timed(rows, written, lambda row: bench.write(caches[row]))

    def phases(row):
        tower, prefill = towers[row.tower], prefills[row.label]
        both = list(map(sum, zip(tower, prefill, strict=True)))
        word = [taken / WORDS for taken in words[row.label]]
        return {"tower": tower, "prefill": prefill, "word": word, "first": both}

    dense = phases(DENSE)
    for row, found in known.items():
        taken = phases(row)
        found |= {f"{phase}_ms": 1e3 * median(times) for phase, times in taken.items()}
        found |= {f"{phase}_speedup": speedup(taken[phase], dense[phase]) for phase in taken}
        promised = known[DENSE]["gflops"] / found["gflops"]
        found["flop_share"] = found["prefill_speedup"] / promised
        found["decision"] = median(shares[row]) if row.plan else None
    where = {"shape": shape, "images": images}
    return [where | {"method": row.label} | found for row, found in known.items()]


def main(
    out: Path = Path("runs/vision-language"),
    images: tuple[int, ...] = (1, 4),
    rounds: int = 5,
    dtype: Dtype = "bfloat16",
    device: str = "cpu",
    tiny: bool = False,
):
    """``images`` in a prompt; with several half of the rounds; ``tiny``: does all run?"""
    shape = "tiny" if tiny else "0.2B"
    report = Report(out, "transformers", device=device, dtype=dtype, shape=shape, rounds=rounds)
    few = max(2, rounds // 2)
    settings = {count: report.setting(rounds if count == 1 else few, 0.1) for count in images}
    each = (measure(shape, count, setting) for count, setting in settings.items())
    report.rows(COLUMNS, (row for rows in each for row in rows))


if __name__ == "__main__":
    command(main)
