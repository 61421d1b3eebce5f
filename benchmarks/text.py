"""How well does a sentence embedding keep its meaning with fewer tokens?

MiniLM embeds docstrings of Python's standard library: what stands below the first line is a
document, and the first line is the question that should find it. The documents lose tokens, the
questions do not. Writes tables (Markdown) and all figures (JSON):

    python benchmarks/text.py --out docs/results/text
"""

import ast
import json
import re
import sysconfig
from pathlib import Path

import torch
from tqdm import tqdm

from harness import Report, command, table
from repshift import (
    ClassAttention,
    ColumnAttention,
    InputError,
    Merge,
    Plan,
    Prune,
    Random,
    Reverse,
    Shift,
    compress,
)
from repshift.evaluation.zoo.minilm import load_minilm
from repshift.files import write_text

SEEDS = range(3)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)
BLOCKS = (1, 3)
EQUAL = range(48, 61)  # tokens of the documents that go in batches of one length
MIXED = range(32, 129)  # and of those that go in padded batches
# Each is a mean over its entries.
METHODS = {
    "shift(mlp, l2) + prune": [(Shift(), Prune())],
    "shift(mlp, l2, update) + prune": [(Shift(definition="update"), Prune())],
    "reverse(shift(mlp, l2)) + prune": [(Reverse(), Prune())],
    "random + prune": [(Random(seed), Prune()) for seed in SEEDS],
    "class-attention + prune": [(ClassAttention(), Prune())],
    "column-attention + prune": [(ColumnAttention(), Prune())],
    "shift(mlp, l2) + merge": [(Shift(), Merge())],
    "random + merge": [(Random(seed), Merge()) for seed in SEEDS],
}
COLUMNS = {
    "share": lambda row: row["share"],
    "tokens left": lambda row: f"{(1 - row['share']) ** len(BLOCKS):.0%}",
    "method": lambda row: row["method"],
    "cosine": lambda row: f"{row['cosine']:.4f}",
    "lowest": lambda row: f"{row['lowest']:.3f}",
    "same neighbour": lambda row: f"{100 * row['same neighbour']:.1f} %",
    "right document": lambda row: f"{100 * row['right document']:.1f} %",
}


def docstrings():
    """First line and rest of the docstrings in the sources of the standard library."""
    root, found = Path(sysconfig.get_path("stdlib")), {}
    for path in sorted([*root.glob("*.py"), *root.glob("*/*.py")]):
        if path.parent.name in ("test", "idlelib", "lib2to3", "turtledemo", "site-packages"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                first, _, rest = (ast.get_docstring(node) or "").partition("\n\n")
                first, rest = (" ".join(part.split()) for part in (first, rest))
                # Sentences, not signatures and tables.
                prose = len(re.findall(r"[A-Za-z ]", rest)) > 0.85 * len(rest)
                if prose and first.endswith(".") and len(first.split()) >= 4:
                    found.setdefault(rest, first)
    return [(first, rest) for rest, first in found.items()]


def batches_of(model, pairs, lengths, size):
    """Pairs in batches of documents of one length, or, with a ``size``, of any, padded."""
    model.tokenizer.no_padding()
    coded = model.tokenizer.encode_batch([rest for _, rest in pairs])
    model.tokenizer.enable_padding()
    counted = [(len(code.ids), pair) for code, pair in zip(coded, pairs, strict=True)]
    if size:
        chosen = [pair for length, pair in counted if length in lengths]
        every = len(chosen) // (6 * size)
        chosen = chosen[:: max(every, 1)][: 6 * size]
        return [chosen[at : at + size] for at in range(0, len(chosen), size)]
    rows = [[pair for length, pair in counted if length == wanted] for wanted in lengths]
    return [row for row in rows if row]


def embed(model, tokens, plan=None):
    if plan is None:
        return torch.cat([model(*batch) for batch in tokens])
    with compress(model.encoder, plan) as compression:
        return torch.cat([model(*batch, compression) for batch in tokens])


def measure(model, batches, shares, methods, progress):
    tokens = [model.tokenize([rest for _, rest in batch]) for batch in batches]
    questions = torch.cat([model(*model.tokenize([q for q, _ in batch])) for batch in batches])
    dense = embed(model, tokens)
    nearest = (questions @ dense.T).argmax(1)
    own = torch.arange(len(dense))
    hits = (nearest == own).double().mean().item()
    rows = [{"method": "dense", "share": 0.0, **figures(dense, dense, nearest, questions)}]
    for share in shares:
        for label in methods:
            found = []
            for score, reduction in METHODS[label]:
                plan = Plan(dict.fromkeys(BLOCKS, share), score, reduction)
                found.append(figures(embed(model, tokens, plan), dense, nearest, questions))
                progress.update()
            mean = {name: sum(one[name] for one in found) / len(found) for name in found[0]}
            rows.append({"method": label, "share": share, **mean})
    return {"texts": len(dense), "dense finds the right document": hits, "rows": rows}


def figures(found, dense, nearest, questions):
    cosine = (found * dense).sum(1)
    now = (questions @ found.T).argmax(1)
    return {
        "cosine": cosine.mean().item(),
        "lowest": cosine.min().item(),
        "same neighbour": (now == nearest).double().mean().item(),
        "right document": (now == torch.arange(len(now))).double().mean().item(),
    }


def verdict(rows, method, control):
    """Says plainly at which shares the method beats its control in the cosine."""

    def of(label):
        return {row["share"]: row["cosine"] for row in rows if row["method"] == label}

    ours, theirs = of(method), of(control)
    better = [share for share in ours if ours[share] > theirs[share]]
    worse = [share for share in ours if share not in better]
    parts = [
        f"{word} at shares {', '.join(map(str, which))}"
        for word, which in (("beats", better), ("does not beat", worse))
        if which
    ]
    return f"- {method} {' and '.join(parts)}: {control} (mean of {len(SEEDS)} seeds)."


def cells(rows):
    return ([cell(row) for cell in COLUMNS.values()] for row in rows)


def main(
    out: Path = Path("runs/text"), threads: int = torch.get_num_threads(), count: int | None = None
):
    """``count``: of the docstrings; all if left out."""
    torch.set_num_threads(threads)
    report = Report(out, "transformers")
    model, pairs = load_minilm(), docstrings()
    if len(pairs) < 100:
        raise InputError("the sources of the standard library are not installed")
    pairs = pairs[:count]
    runs = sum(map(len, METHODS.values())) * (len(SHARES) + 1)
    with torch.inference_mode(), tqdm(total=runs) as progress:
        equal = measure(model, batches_of(model, pairs, EQUAL, 0), SHARES, METHODS, progress)
        padded = measure(model, batches_of(model, pairs, MIXED, 16), (0.3,), METHODS, progress)
    pruning = [label for label in METHODS if label.endswith("prune") and "random" not in label]
    verdicts = [verdict(equal["rows"], label, "random + prune") for label in pruning]
    verdicts.append(verdict(equal["rows"], "shift(mlp, l2) + merge", "random + merge"))
    report.add(
        f"MiniLM-L6, {equal['texts']} docstrings of {EQUAL.start} to {EQUAL.stop - 1} tokens, in "
        f"batches of one length. The share leaves after each of blocks {BLOCKS[0]} and {BLOCKS[1]} "
        "(the special tokens are not counted). Cosine: to the dense embedding, mean and lowest. "
        "Same neighbour: the question finds the document that it finds with dense embeddings. "
        "Right document: it finds its own.",
        table(COLUMNS, cells(equal["rows"])),
        "Against random, by the mean cosine:",
        "\n".join(verdicts),
        f"{padded['texts']} docstrings of {MIXED.start} to {MIXED.stop - 1} tokens, in padded "
        "batches of 16. The share counts the padding, which leaves first, so that short texts "
        "lose little:",
        table(COLUMNS, cells(padded["rows"])),
    )
    form = {"environment": report.facts, "equal": equal, "padded": padded}
    write_text(report.file(".json"), json.dumps(form, indent=1))


if __name__ == "__main__":
    command(main)
