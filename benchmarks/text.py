"""How many words can leave before a sentence means something else?

The sentence encoder minilm on the docstrings of Python's standard library: the cosine of the
embedding with the dense model's, and how often the nearest other text is the same one. Texts of
one length share a batch, so that padding plays no part, but for the rows that say so.

    python benchmarks/text.py --out docs/results/text.md
"""

import argparse
import importlib
import inspect
import json
import platform
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from repshift import (
    ClassAttention,
    ColumnAttention,
    Merge,
    Plan,
    Random,
    Redundancy,
    Reverse,
    Shift,
    compress,
)
from repshift.report.files import write_text
from repshift.zoo.minilm import load_minilm

MODULES = (
    "argparse asyncio collections concurrent.futures configparser contextlib csv datetime decimal "
    "difflib email enum fractions functools gettext http.client inspect io json logging mailbox "
    "optparse os pathlib pickle pprint random re sched shutil smtplib socket sqlite3 statistics "
    "string subprocess tarfile tempfile textwrap threading tkinter tokenize turtle typing unittest "
    "urllib.request uuid warnings wave xml.dom.minidom zipfile"
).split()
BLOCKS, SHARES = (1, 3), (0.1, 0.2, 0.3, 0.5)
METHODS = {
    "random, mean of 3 seeds": [Plan({}, Random(seed)) for seed in range(3)],
    "shift(mlp, l2)": [Plan({}, Shift())],
    "shift(mlp, l2, update)": [Plan({}, Shift(definition="update"))],
    "reverse(shift(mlp, l2))": [Plan({}, Reverse(Shift()))],
    "class-attention": [Plan({}, ClassAttention())],
    "column-attention": [Plan({}, ColumnAttention())],
    "redundancy(mlp)": [Plan({}, Redundancy("mlp"))],
    "shift(mlp, l2) + merge": [Plan({}, Shift(), Merge())],
    "column-attention + merge": [Plan({}, ColumnAttention(), Merge())],
}


def docstrings(least=150):
    """First paragraphs of the docstrings of public functions and classes, each once."""
    found = {}
    for name in MODULES:
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue  # tkinter is not everywhere
        for _, item in sorted(vars(module).items()):
            if inspect.isclass(item) or inspect.isroutine(item):
                text = " ".join((inspect.getdoc(item) or "").split())
                if len(text) >= least:
                    found.setdefault(text[:400])
    return list(found)


def batches(model, texts, size=16):
    """Ids and masks; texts of one length together."""
    by_length = {}
    for text in texts:
        ids, mask = model.tokenize([text])
        by_length.setdefault(ids.shape[1], []).append((ids, mask))
    for same in by_length.values():
        for start in range(0, len(same), size):
            ids, masks = zip(*same[start : start + size], strict=True)
            yield torch.cat(ids), torch.cat(masks)


def embed(model, given, plan):
    with compress(model.encoder, plan) as compression, torch.inference_mode():
        return torch.cat([model(ids, mask, compression) for ids, mask in given])


def nearest(embedded):
    return (embedded @ embedded.T).fill_diagonal_(-1).argmax(1)


def judge(model, given, drop, plans, dense):
    cosine, same = [], []
    for plan in plans:
        found = embed(model, given, Plan(drop, plan.score, plan.reduction))
        cosine.append((found * dense).sum(1).mean().item())
        same.append((nearest(found) == nearest(dense)).float().mean().item())
    return sum(cosine) / len(plans), sum(same) / len(plans)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/text.md"))
    arguments = parser.parse_args()
    model, rows = load_minilm(), []
    texts = docstrings()
    sets = {
        "one length": list(batches(model, texts)),
        "padded": [model.tokenize(texts[at : at + 16]) for at in range(0, len(texts), 16)],
    }
    runs = [("one length", share, name) for share in SHARES for name in METHODS]
    runs += [("padded", 0.3, name) for name in METHODS]
    dense = {kind: embed(model, given, Plan({})) for kind, given in sets.items()}
    for kind, share, name in tqdm(runs):
        drop = dict.fromkeys(BLOCKS, share)
        cosine, same = judge(model, sets[kind], drop, METHODS[name], dense[kind])
        rows.append({"batches": kind, "share": share, "method": name} | {
            "cosine": cosine, "same_neighbour": same,
        })  # fmt: skip
    facts = (
        f"minilm, {len(texts)} docstrings of Python {platform.python_version()}'s standard library "
        f"(first 400 letters), the share leaves after each of blocks {BLOCKS[0]} and {BLOCKS[1]}; "
        f"PyTorch {torch.__version__}."
    )
    lines = [facts, "", "| batches | share | method | cosine | same nearest text |"]
    lines += ["|---|---|---|---|---|"]
    lines += [
        f"| {row['batches']} | {row['share']} | {row['method']} | {row['cosine']:.4f} | "
        f"{100 * row['same_neighbour']:.1f} % |"
        for row in rows
    ]
    write_text(arguments.out.with_suffix(".md"), "\n".join([*lines, ""]))
    form = {"rows": rows, "texts": len(texts), "python": sys.version, "torch": torch.__version__}
    write_text(arguments.out.with_suffix(".json"), json.dumps(form, indent=1))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
