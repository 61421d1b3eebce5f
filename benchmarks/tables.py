"""The paper's tables 2, 3, 4, 6 and 7 from what was measured here, the published figures beside.

Reads what the commands below wrote and measures nothing itself:

    repshift retrieve --compare --batch-size 8 --json docs/results/clips-retrieval.json
    repshift retrieve --plan 0:0.1,1:0.1,2:0.1 0:0.3,1:0.3,2:0.3 --methods random 'shift(mlp, l2)' --batch-size 8 --threads 1 --json docs/results/clips-shares.json
    repshift answer --compare --batch-size 8 --json docs/results/clips-answers.json
    python benchmarks/speed.py --cases "umt-b16, retrieval" "umt-b16, answering" --batches 1 --rounds 3 --out docs/results/video-b-cpu
    python benchmarks/speed.py --cases "umt-l16, retrieval" --batches 1 --rounds 3 --out docs/results/video-l-cpu
    python benchmarks/cifar.py --threads 1 --count 2000 --weights WEIGHTS... --images NPZ --out docs/results/cifar
    repshift bench --model digits-resnet --batch-size 60 --threads 1 --json docs/results/digits-resnet.json
    repshift bench --model digits-vim --batch-size 60 --threads 1 --json docs/results/digits-vim.json

    python benchmarks/tables.py --results docs/results --out docs/results/paper-tables.md
"""  # noqa: E501

import json
from pathlib import Path

from harness import cells, command, table
from repshift import InputError, Plan
from repshift.evaluation.tasks.published import of_method
from repshift.evaluation.tasks.variants import DENSE_FUSED
from repshift.files import write_text

SIZES = ("b16", "l16")
# Tables 2 and 4: throughput of UMT-B and UMT-L over the dense model on eager attention.
SPEEDS = {
    "retrieval": {"column-attention": "1.78x / 1.91x", "shift(mlp, l2)": "5.47x / 5.50x"},
    "answering": {"column-attention": "1.22x / 1.25x", "shift(mlp, l2)": "4.00x / 3.83x"},
}
NAMED = {"method": "{method}", "plan": "{plan}", "GFLOPs": "{gflops:.3g}"}
RECALLS = {"mean recalls": "{mean_r1:.1f}/{mean_r5:.1f}/{mean_r10:.1f}"}
ACCURACY = {"accuracy": "{accuracy:.1%}"}
CNN = {name: f"{{{name}}}" for name in ("model", "method", "reduction")} | {
    "MFLOPs": "{MFLOPs:.1f}"
}
VERSUS = {"vs eager": "{speedup_vs_eager:.2f}x", "vs fused": "{speedup_vs_fused:.2f}x"}
BENCH = {**NAMED, **ACCURACY, "vs dense": VERSUS["vs fused"]}


def read(folder, name):
    return json.loads((folder / f"{name}.json").read_text())["rows"]


def shown(columns, rows):
    return table(columns, cells(columns, rows))


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
    measured = [row for size in "bl" for row in read(folder, f"video-{size}-cpu")]
    speeds = {(row["model"], row["method"]): row for row in measured if row["batch"] == 1}

    def both(form, method):
        """Of UMT-B and of UMT-L."""
        rows = [speeds.get((f"umt-{size}, {task}", method), {}) for size in SIZES]
        return " / ".join(cell or "-" for [cell] in cells({"": form}, rows))

    def line(row):
        method = row["method"]
        own = cells(NAMED | quality | VERSUS, [row])[0]
        theirs = " ; ".join(printed(data, size, method) for size in SIZES)
        times = [both(form, method) for form in VERSUS.values()]
        return [*own, *times, theirs, SPEEDS[task].get(method, "-")]

    heads = [*NAMED, *(f"clips-umt, {head}" for head in (*quality, *VERSUS))]
    heads += [f"UMT-B / L {head}" for head in VERSUS]
    heads += [f"paper, {data} (B ; L)", "paper, speed (B / L)"]
    return table(heads, map(line, read(folder, name)))


def main(results: Path = Path("docs/results"), out: Path = Path("runs/paper-tables.md")):
    commands = __doc__.split("itself:\n\n")[1].rstrip()
    shares = [row for row in read(results, "clips-shares") if row["plan"]]
    cnn = [row for row in read(results, "cifar") if row["rows and columns"] in ("", "4 + 2")]
    parts = [
        "# The paper's tables, rebuilt on what runs here",
        "Made by `benchmarks/tables.py` from the results of:",
        f"```\n{commands}\n```",
        "Everything measured here is training-free. In the paper it is too, but for tables 6 and "
        "7.",
        "## Tables 2 and 3: video-text retrieval",
        "Seven data sets become one: 500 generated clips. Recalls at 1/5/10 are means of both "
        "directions; speeds are of the vision encoder, those of UMT with random weights on 12 "
        "frames at batch 1 on two CPU cores; the paper's on one A6000 at batch 20.",
        video(results, "clips-retrieval", "retrieval", "msrvtt", RECALLS),
        "Other shares of the tokens, in each of the same three blocks:",
        shown({**NAMED, "tokens": "{tokens}", **RECALLS}, shares),
        "## Table 4: video question answering",
        video(results, "clips-answers", "answering", "msrvtt-qa", ACCURACY),
        "## Table 6: CNNs",
        "CIFAR-10 (2,000 test images that had been through JPEG) instead of ImageNet, the paper's "
        "shares. **Here nothing is trained; the paper fine-tunes for 100 epochs.**",
        shown(CNN | ACCURACY, cnn),
        "`digits-resnet`, where random rows and columns are best:",
        shown(BENCH, read(results, "digits-resnet")),
        "Published (ResNet-34 / 50, ImageNet, fine-tuned): dense 73.2 / 76.1 %; line-wise 72.8 / "
        "76.4 %; token-wise 72.2 / 75.9 %.",
        "## Table 7: Vision Mamba",
        "`digits-vim`, 8 blocks. **Here nothing is trained; the paper's figures are most likely "
        "fine-tuned, as ToP-ViM's are (30 epochs).**",
        shown(BENCH, read(results, "digits-vim")),
        "Published (ViM-T, ImageNet): dense 76.1 %; ToP-ViM 75.1 %; shift 75.5 %.",
    ]
    write_text(out, "\n\n".join(parts) + "\n")
    print(out)


if __name__ == "__main__":
    command(main)
