"""A vision-language model's tower, prefill and words, dense and under plans, in turn.

    python benchmarks/vision_language.py --out docs/results/vision-language-cpu

A model of the shape of Qwen2.5-VL from a config, with random weights, since speed depends on them
as little as on the image. All that stands behind the tower until the first word is the prefill; a
word is a further one on its cache. Beside plans: fused and eager attention, an image of as many
tokens as a plan keeps, and pruning by the last query on eager attention, which FastV (arXiv
2403.06764) needs to read it off the map.
"""

from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
import transformers

from harness import Dtype, Report, command
from repshift import Grid, Keep, LastQuery, Plan, Random, Shift, VisionLanguagePlan
from repshift.evaluation.tasks.vlm_cost import measure_cost
from repshift.evaluation.tasks.vlm_exam import Example
from repshift.evaluation.tasks.vlm_rows import DENSE, Row
from repshift.evaluation.tasks.vlm_times import clocked
from repshift.measure.flops import count_flops
from repshift.measure.speed import speedup
from repshift.runtime.attention import EagerAttention

IMAGE = 5  # the id of a placeholder; words have the ids behind it
LAYER = 2  # of the decoder: tokens are dropped after it
PHASES = {"tower": "tower", "prefill": "prefill", "word": "word", "first": "first word"}
COLUMNS = {
    "images": "{images}",
    "method": "{method}",
    "tokens": "{tokens}",
    "prefill GFLOPs": "{prefill_gflops:.3g}",
    **{f"{name} ms": f"{{{phase}_ms:.3g}}" for phase, name in PHASES.items()},
    "key-value MB": "{cache_mb:.3g}",
    **{name: f"{{{phase}_speedup:.2f}}x" for phase, name in PHASES.items()},
    "of FLOPs' gain": "{flop_share:.0%}",
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


def prompt(label, *keep, **how):
    return Row(f"prompt: {label}", plans=(VisionLanguagePlan(prompt=Keep(*keep, **how)),))


class Eager(Row):
    """Every attention forms its map."""

    @contextmanager
    def attached(self, model, plan):
        with EagerAttention(), super().attached(model, plan) as compression:
            yield compression


def after_layer(label, score, kind=Row):
    return kind(label, plans=(VisionLanguagePlan(decoder=Plan({LAYER: 0.75}, score)),))


BLOCK = Shift("block")
EVERYWHERE = VisionLanguagePlan(
    Plan({0: 0.3}, BLOCK), Keep(0.5, BLOCK, merge=False), Plan({LAYER: 0.5}, BLOCK)
)
ROWS = [
    Row(DENSE),
    Eager("dense, eager"),
    Row("smaller image, a quarter of the tokens", smaller=0.5),
    *(prompt(f"Keep({share})", share) for share in (0.5, 0.25, 0.11)),
    prompt("25%, farthest, pruned", 0.25, merge=False),
    prompt("25%, grid, pruned", 0.25, Grid(), merge=False),
    prompt("25%, random, pruned", 0.25, Random(), merge=False),
    prompt("25%, random, merged", 0.25, Random()),
    after_layer("decoder: random", Random()),
    after_layer("decoder: shift(block)", BLOCK),
    after_layer("decoder: last query", LastQuery()),
    after_layer("decoder: last query, eager (FastV)", LastQuery(), Eager),
    Row("tower, prompt and decoder: shift(block)", plans=(EVERYWHERE,)),
]


class Prompt(Example):
    """A model and some images ahead of a question."""

    def __init__(self, shape, images, setting):
        self.shape, self.images, self.setting = shape, images, setting
        self.rounds, self.seconds = setting.rounds, setting.seconds
        self.words = 1 if setting.tiny else 4
        torch.manual_seed(0)
        with setting.device:
            self.dense = transformers.Qwen2_5_VLForConditionalGeneration._from_config(
                shape.config(), dtype=setting.dtype, attn_implementation="sdpa"
            ).eval()

    def model(self, kernel):
        return self.dense

    def example(self, row):
        side, device = 2 * round(self.shape.side / 2 * row.smaller), self.setting.device
        words = torch.arange(IMAGE + 1, IMAGE + 31).tolist()
        ids = words[:15] + [2, *[IMAGE] * (side**2 // 4), 3] * self.images + words[15:]
        ids = torch.tensor([ids], device=device)
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": (ids == IMAGE).int(),
            "pixel_values": self.setting.random(self.images * side**2, 3 * 2 * 14 * 14),
            "image_grid_thw": torch.tensor([[1, side, side]] * self.images, device=device),
        }

    def tokens(self, inputs):
        return int((inputs["input_ids"] == IMAGE).sum())

    @torch.inference_mode()
    def tower_gflops(self, row):
        given, plan = self.example(row), row.plans[0] if row.plans else None
        pixels, grid = given["pixel_values"], given["image_grid_thw"]
        with row.attached(self.dense, plan):
            return count_flops(lambda: self.dense.model.get_image_features(pixels, grid))[0] / 1e9


def measure(shape, images, setting):
    """All rows for prompts of so many images; of several only those of fused attention."""
    rows = [row for row in ROWS if images == 1 or not isinstance(row, Eager)]
    bench, found = Prompt(SHAPES[shape], images, setting), []
    clocks = clocked(bench, rows)
    for row, clock in zip(rows, clocks, strict=True):
        cost = {"shape": shape, "images": images, "method": row.label}
        cost |= asdict(measure_cost(bench, row))
        cost["prefill_gflops"] = cost["gflops"] - bench.tower_gflops(row)
        found.append(cost)
        for phase in PHASES:
            taken = clock.milliseconds(phase)
            cost[f"{phase}_ms"] = median(taken)
            cost[f"{phase}_speedup"] = speedup(taken, clocks[0].milliseconds(phase))
        promised = found[0]["prefill_gflops"] / cost["prefill_gflops"]
        cost["flop_share"] = cost["prefill_speedup"] / promised
    return found


def main(
    out: Path = Path("runs/vision-language"),
    images: tuple[int, ...] = (1, 4),
    rounds: int = 3,
    dtype: Dtype = "bfloat16",
    device: str = "cpu",
    tiny: bool = False,
):
    """``images`` in a prompt; ``tiny``: does all run?"""
    shape = "tiny" if tiny else "0.2B"
    report = Report(out, "transformers", device=device, dtype=dtype, shape=shape, rounds=rounds)
    each = (measure(shape, count, report.setting(rounds, 0.05)) for count in images)
    report.rows(COLUMNS, (row for rows in each for row in rows))


if __name__ == "__main__":
    command(main)
