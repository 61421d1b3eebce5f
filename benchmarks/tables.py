"""The paper's tables 2, 3, 4, 6 and 7 from what was measured here, the published figures beside.

Reads what the commands below wrote and measures nothing itself:

    repshift retrieve --compare --batch-size 8 --json docs/results/clips-retrieval.json
    repshift retrieve --plan 0:0.1,1:0.1,2:0.1 0:0.3,1:0.3,2:0.3 --methods random 'shift(mlp, l2)' --batch-size 8 --threads 1 --json docs/results/clips-shares.json
    repshift answer --compare --batch-size 8 --json docs/results/clips-answers.json
    python benchmarks/video.py --models umt-b16 --batches 1 --out docs/results/video-b-cpu
    python benchmarks/video.py --models umt-l16 --batches 1 --tasks retrieval --out docs/results/video-l-cpu
    python benchmarks/cifar.py --threads 1 --count 2000 --weights WEIGHTS... --images NPZ --out docs/results/cifar
    repshift bench --model digits-resnet --batch-size 60 --threads 1 --json docs/results/digits-resnet.json
    repshift bench --model digits-vim --batch-size 60 --threads 1 --json docs/results/digits-vim.json

    python benchmarks/tables.py --results docs/results --out docs/results/paper-tables.md
"""  # noqa: E501

import json
from pathlib import Path

from harness import command, table
from repshift import InputError, Plan
from repshift.evaluation.tasks.published import of_method
from repshift.evaluation.tasks.variants import DENSE_FUSED
from repshift.files import write_text

FREE = "Everything measured here is training-free; in the paper {} too."
# Tables 2 and 4: throughput of UMT-B and UMT-L over the dense model on eager attention.
SPEEDS = {
    "retrieval": {"column-attention": "1.78x / 1.91x", "shift(mlp, l2)": "5.47x / 5.50x"},
    "answering": {"column-attention": "1.22x / 1.25x", "shift(mlp, l2)": "4.00x / 3.83x"},
}
TABLE_6 = [("dense", "73.2 / 76.1"), ("line-wise", "72.8 / 76.4"), ("token-wise", "72.2 / 75.9")]
TABLE_7 = [("dense", "76.1"), ("ToP-ViM", "75.1"), ("shift", "75.5")]


def read(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def printed(data, size, label):
    """The published figures of a row that names its method by its label."""
    if label == DENSE_FUSED.label:
        return of_method(data, size, None)
    try:
        return of_method(data, size, Plan.from_method(label, {}))
    except InputError:  # such as the mean of several seeds
        return "-"


def video(folder, name, task, data, quality):
    """A table of a task on video: clips-umt's quality, UMT's speed on this machine, the paper's."""
    measured = read(folder, name)
    sizes = [row for size in "bl" for row in read(folder, f"video-{size}-cpu")["rows"]]
    speeds = {
        (row["model"], row["method"]): row
        for row in sizes
        if row["batch"] == 1 and row["model"].endswith(task)
    }

    def ratio(method, column):
        found = [speeds.get((f"umt-{size}, {task}", method)) for size in ("b16", "l16")]
        return " / ".join(f"{row[column]:.2f}x" if row else "-" for row in found)

    lines = []
    for row in measured["rows"]:
        method = row["method"]
        lines.append(
            [
                method, row["plan"] or "-", f"{row['gflops']:.3g}", quality(row),
                f"{row['speedup_vs_eager']:.2f}x", f"{row['speedup_vs_fused']:.2f}x",
                ratio(method, "speedup_vs_eager"), ratio(method, "speedup_vs_fused"),
                " ; ".join(printed(data, size, method) for size in ("b16", "l16")),
                SPEEDS[task].get(method, "-"),
            ]
        )  # fmt: skip
    heads = [
        "method", "plan", "GFLOPs", "clips-umt", "vs eager", "vs fused", "UMT-B / L vs eager",
        "UMT-B / L vs fused", f"paper, {data} (B ; L)", "paper, speed (B / L)",
    ]  # fmt: skip
    return table(heads, lines)


def recalls(row):
    return "/".join(f"{row[f'mean_r{k}']:.1f}" for k in (1, 5, 10))


def accuracy(row):
    return f"{100 * row['accuracy']:.1f} %"


def shares_table(folder):
    heads = ["method", "plan", "tokens", "GFLOPs", "mean recalls"]
    cells = [
        [row["method"], row["plan"], str(row["tokens"]), f"{row['gflops']:.3g}", recalls(row)]
        for row in read(folder, "clips-shares")["rows"]
        if row["plan"]
    ]
    return table(heads, cells)


def grid_table(folder):
    heads = ["model", "method", "reduction", "MFLOPs", "accuracy"]
    cells = [
        [
            row["model"],
            row["method"],
            row["reduction"] or "-",
            f"{row['MFLOPs']:.1f}",
            accuracy(row),
        ]
        for row in read(folder, "cifar")["rows"]
        if row["rows and columns"] in ("", "4 + 2")
    ]
    return table(heads, cells)


def bench_table(folder, name):
    heads = ["method", "GFLOPs", "accuracy", "vs dense"]
    cells = [
        [row["method"], f"{row['gflops']:.3g}", accuracy(row), f"{row['speedup_vs_fused']:.2f}x"]
        for row in read(folder, name)["rows"]
    ]
    return table(heads, cells)


def main(results: Path = Path("docs/results"), out: Path = Path("runs/paper-tables.md")):
    commands = __doc__.split("itself:\n\n")[1].rstrip()
    parts = [
        "# The paper's tables, rebuilt on what runs here",
        "Made by `benchmarks/tables.py` from the results of:",
        f"```\n{commands}\n```",
        "## Tables 2 and 3: video-text retrieval",
        "Seven data sets become one: 500 generated clips. Recalls at 1/5/10 are means of both "
        "directions; speeds are of the vision encoder, those of UMT with random weights on 12 "
        "frames at batch 1 on two CPU cores; the paper's on one A6000 at batch 20. "
        + FREE.format("it is"),
        video(results, "clips-retrieval", "retrieval", "msrvtt", recalls),
        "Other shares of the tokens, in each of the same three blocks:",
        shares_table(results),
        "## Table 4: video question answering",
        FREE.format("it is"),
        video(results, "clips-answers", "answering", "msrvtt-qa", accuracy),
        "## Table 6: CNNs",
        "CIFAR-10 (2,000 test images that had been through JPEG) instead of ImageNet, the paper's "
        "shares. **Here nothing is trained; the paper fine-tunes for 100 epochs.**",
        grid_table(results),
        "`digits-resnet`, where random rows and columns are best:",
        bench_table(results, "digits-resnet"),
        "Published (ResNet-34 / 50, ImageNet, fine-tuned): "
        + "; ".join(f"{name} {value} %" for name, value in TABLE_6) + ".",
        "## Table 7: Vision Mamba",
        "`digits-vim`, 8 blocks. **Here nothing is trained; the paper's figures are most likely "
        "fine-tuned, as ToP-ViM's are (30 epochs).**",
        bench_table(results, "digits-vim"),
        "Published (ViM-T, ImageNet): " + "; ".join(f"{n} {v} %" for n, v in TABLE_7) + ".",
    ]  # fmt: skip
    write_text(out, "\n\n".join(parts) + "\n")
    print(out)


if __name__ == "__main__":
    command(main)
