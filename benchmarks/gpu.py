"""Everything on a GPU: what must be right there, and what it costs, in one command.

python benchmarks/gpu.py --out docs/results/gpu

In parts, each in a process of its own with a time limit, so that a crash or a slow part costs only
itself: at most ten minutes in all on an H100. Speed is taken in half precision (bfloat16) by CUDA
events, all methods in turn, on random weights and inputs, since it depends on neither. Every case
is kept as soon as it is measured, in OUT.json and OUT.md; the same command goes on where a stopped
run was. What the parts print is in OUT.log. ``--tiny --device cpu`` shows in seconds that all runs.
"""

import argparse
import json
import subprocess
import sys
import traceback
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

import torch

from harness import COSTS, Setting, cells, table
from repshift.files import write_text
from repshift.measure.environment import environment, in_words

# In the order in which they run, with the seconds each may take; what one leaves, the next may use.
LIMITS = {
    "correctness": 150,
    "images": 110,
    "video": 65,
    "others": 60,
    "vision_language": 90,
    "profile": 20,
    "compiled": 70,
}
LIBRARIES = ("timm", "torchvision", "transformers", "triton")
SUMMARY = ("model", "batch", "method", "vs eager", "vs fused", "of FLOPs' gain")


class Results:
    """Rows by part and case, in a file that is written whole after each."""

    def __init__(self, path, facts):
        self.path, self.facts, self.parts = path, facts, {}
        if path.is_file():
            held = json.loads(path.read_text(encoding="utf-8"))
            if held["environment"] != facts:
                sys.exit(
                    f"{path} holds results of {in_words(held['environment'])}; this run is "
                    f"{in_words(facts)}. Delete it or write elsewhere (--out)"
                )
            self.parts = held["parts"]

    def part(self, name):
        empty = {"planned": [], "cases": {}, "errors": {}, "missing": [], "seconds": 0.0}
        return self.parts.setdefault(name, empty)

    def save(self):
        form = {"environment": self.facts, "parts": self.parts}
        write_text(self.path, json.dumps(form, indent=1, ensure_ascii=False))


def run_part(name, setting, results):
    """In the part's own process: measure what is not known yet, and keep each case."""
    part = results.part(name)
    try:
        module = import_module(f"gpu_parts.{name}")
    except ModuleNotFoundError as error:
        part["missing"] = [error.name]
        results.save()
        return
    part["missing"] = [library for library in module.NEEDS if not find_spec(library)]
    cases = {} if part["missing"] else module.cases(setting)
    part["planned"], part["errors"] = list(cases), {}
    results.save()
    for case, measure in cases.items():
        if case in part["cases"]:
            continue
        print(f"== {name}: {case}", flush=True)
        try:
            part["cases"][case] = measure()
        except Exception as error:
            traceback.print_exc()
            part["errors"][case] = f"{type(error).__name__}: {error}".splitlines()[0]
        results.save()
        if setting.device.type == "cuda":
            torch.cuda.empty_cache()


def start_part(name, arguments, limit, log):
    """Run a part in a process of its own; returns how it ended, if not well."""
    command = [sys.executable, __file__, "--one", name, "--out", arguments.out]
    command += ["--device", arguments.device, *(["--tiny"] if arguments.tiny else [])]
    try:
        status = subprocess.run(command, stdout=log, stderr=log, timeout=limit).returncode
    except subprocess.TimeoutExpired:
        return f"stopped after {limit:.0f} s"
    return f"ended with status {status}" if status else ""


def faults(name, part, ending):
    """What of a part is not as it should be, a line each."""
    if part["missing"]:
        return [f"{name}: skipped, needs {', '.join(part['missing'])}"]
    found = [f"{name}: {ending}"] if ending else []
    found += [f"{name}: {case}: {error}" for case, error in part["errors"].items()]
    never = [c for c in part["planned"] if c not in part["cases"] and c not in part["errors"]]
    if never:
        found.append(f"{name}: not run: {'; '.join(never)}")
    rows = [row for case in part["cases"].values() for row in case]
    return found + [f"{name}: {row['failure']}" for row in rows if row.get("failure")]


def section(name, part):
    """A part's rows in Markdown."""
    if not part["cases"]:
        return []
    module = import_module(f"gpu_parts.{name}")
    rows = [row for case in part["cases"].values() for row in case]
    title = module.__doc__.splitlines()[0]
    return [f"## {title}", table(module.COLUMNS, cells(module.COLUMNS, rows))]


def summary(parts):
    """The goals in one small table: the shift and what it is measured against."""
    rows = [
        row
        for name in ("images", "video")
        for case in parts.get(name, {}).get("cases", {}).values()
        for row in case
        if row["method"].startswith(("shift", "tome", "dense"))
    ]
    return table(SUMMARY, cells({head: COSTS[head] for head in SUMMARY}, rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--parts", nargs="+", choices=LIMITS, default=list(LIMITS))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small shapes: does all run?")
    parser.add_argument("--one", choices=LIMITS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device, tiny = torch.device(arguments.device), arguments.tiny
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device; --device cpu --tiny shows that all parts run")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    rounds, seconds = (2, 1e-3) if tiny else (5, 0.1)
    if tiny:
        torch.set_num_threads(1)  # such small models only wait for a second thread
    facts = environment(device, dtype, *LIBRARIES) | {"tiny": tiny}
    path = arguments.out.with_suffix(".json")
    results = Results(path, facts)
    if arguments.one:
        run_part(arguments.one, Setting(device, dtype, rounds, seconds, tiny), results)
        return

    failed = []
    results.save()  # an error now, not after the first part
    with arguments.out.with_suffix(".log").open("a", encoding="utf-8") as log:
        end = perf_counter() + sum(LIMITS[name] for name in arguments.parts)
        for number, name in enumerate(arguments.parts):
            start = perf_counter()
            later = sum(LIMITS[other] for other in arguments.parts[number + 1 :])
            ending = start_part(name, arguments, end - later - start, log)
            results, took = Results(path, facts), perf_counter() - start
            part = results.part(name)
            part["seconds"] += took
            results.save()
            failed += faults(name, part, ending)
            done = f"{len(part['cases'])} of {len(part['planned'])} cases"
            print(f"{name}: {done}, {took:.0f} s {ending}", flush=True)
            text = [in_words(facts)]
            text += [each for known in LIMITS for each in section(known, results.part(known))]
            if failed:
                text += ["## Not as it should be", "\n".join(f"- {fault}" for fault in failed)]
            write_text(arguments.out.with_suffix(".md"), "\n\n".join(text) + "\n")
    print("", summary(results.parts), "", *failed, sep="\n")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
