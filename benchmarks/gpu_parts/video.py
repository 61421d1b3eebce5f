"""UMT's vision encoders at the paper's batch: the ratios of its tables 2, 3 and 4."""

from functools import partial

from harness import COSTS
from repshift import AttentionEntropy, Plan, VidTLDR
from repshift.evaluation.models.umt.config import CONFIGS, UMTConfig
from speed import TASKS, umt, umt_plans

NEEDS = ()
COLUMNS = COSTS | {"vs eager in the paper": "{paper:.2f}"}
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
SMALL = UMTConfig("umt-small", 64, 3, 4, 48, 4, 4, 2, 32)


def measure(name, task, setting):
    case, batch = umt(CONFIGS[name], umt_plans(name, task)), 20
    if setting.tiny:
        tldr = Plan({0: 20, 1: 10}, AttentionEntropy(), VidTLDR())
        paper, _ = TASKS[task]
        plans, batch = {paper: Plan.paper(paper), "vid-tldr": tldr}, 2
        case = umt(SMALL, plans, frames=4, side=64)
    label = f"{name}, {task}"
    printed = dict(zip(ROWS, PAPER[label], strict=False))
    rows = case.measure(label, batch, setting.brief)
    return [row | {"paper": printed.get(row["method"])} for row in rows]


def cases(setting):
    names = ["umt-b16"] if setting.tiny else ["umt-l16", "umt-b16"]
    return {
        f"{name}, {task}": partial(measure, name, task, setting) for name in names for task in TASKS
    }
