"""UMT's vision encoders at the paper's batch: the ratios of its tables 2, 3 and 4."""

from functools import partial

import video
from harness import COSTS
from repshift import AttentionEntropy, Plan, VidTLDR
from repshift.evaluation.models.umt.config import CONFIGS, UMTConfig

NEEDS = ()
# Times as fast as the dense model on eager attention, as printed: tables 2 and 4 (attention, the
# shift), and for retrieval table 3 (vid-TLDR, and with the shift), on MSRVTT.
ROWS = (
    "column-attention", "shift(mlp, l2)", "attention-entropy + vid-tldr",
    "shift(mlp, l2) + vid-tldr",
)  # fmt: skip
PAPER = {
    "umt-b16, retrieval": (1.78, 5.47, 43.6 / 32, 131.4 / 32),
    "umt-l16, retrieval": (1.91, 5.50, 19.1 / 12, 41.0 / 12),
    "umt-b16, answering": (1.22, 4.00),
    "umt-l16, answering": (1.25, 3.83),
}
BATCH = 20
SMALL = UMTConfig("umt-small", 64, 3, 4, 48, 4, 4, 2, 32)


def printed(row):
    figures = dict(zip(ROWS, PAPER[row["model"]], strict=False))
    return f"{figures[row['method']]:.2f}" if row["method"] in figures else ""


COLUMNS = COSTS | {"vs eager in the paper": printed}


def measure(name, task, setting):
    chosen = [(plan, Plan.paper(plan)) for plan in video.plans(name, task)]
    size, shape = CONFIGS[name], (BATCH, video.FRAMES, 3, video.SIDE, video.SIDE)
    if setting.tiny:
        size, shape = SMALL, (2, 4, 3, 64, 64)
        chosen[1] = ("vid-tldr", Plan({0: 20, 1: 10}, AttentionEntropy(), VidTLDR()))
    where = {"model": f"{name}, {task}", "batch": shape[0]}
    return video.measure(
        where, size, setting.random(*shape), *chosen, rounds=min(3, setting.rounds),
        seconds=setting.seconds,
    )  # fmt: skip


def cases(setting):
    names = ["umt-b16"] if setting.tiny else ["umt-l16", "umt-b16"]
    return {
        f"{name}, {task}": partial(measure, name, task, setting)
        for name in names
        for task in video.TASKS
    }
