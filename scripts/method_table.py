"""Write docs/methods.md from what is registered: the scores and reductions, and what they need.

python scripts/method_table.py
"""

import dataclasses
import inspect
import itertools
import re
import sys
import typing
from pathlib import Path

from repshift import Reduction, Score
from repshift.registry import registered
from repshift.resnet.reductions import GridReduction

ROOT = Path(__file__).parents[1]

HEAD = """# Scores and reductions

Made by `python scripts/method_table.py` from what is registered. A label names a score (which prunes), a reduction, or both: `shift(mlp, l1)`, `tome`, `redundancy(keys) + merge`. Settings stand in their order, and those at the end may be left out; a plan file names them (`{"name": "shift", "site": "block"}`).

- **needs**: what the model must have, or the block must show beside its residual stream (none: that alone). Of a ResNet rows and columns leave, of all others tokens.
- **attention map**: whether one is formed, so that fused attention is off in the blocks where tokens leave.
- **proportional attention**: whether later attention weighs a merged token by the number of tokens in it (the log of it is added to the logits).

"""  # noqa: E501

OWN = '''
## One of your own

```python
from dataclasses import dataclass
from typing import ClassVar

from repshift import Need, Score, register


@register
@dataclass(frozen=True)
class Loudest(Score):
    """The largest value of each token."""

    name: ClassVar[str] = "loudest"
    needs: ClassVar[frozenset[Need]] = frozenset({"exit"})
    power: float = 1.0

    def __call__(self, snapshot):  # what the block did, see Snapshots
        return snapshot.exit.float().abs().amax(-1) ** self.power  # [B, N], the highest are kept
```

```
repshift bench --import ./loudest.py --methods loudest 'loudest(2) + merge' random
```

In Python it is found once its module was imported. `Score`, `Reduction`, `Snapshots` and `Need` say what a method gets and returns.
'''  # noqa: E501

# What a user must know of what is captured; the stream itself is everywhere.
NEEDS = {
    "attention": "attention map",
    "keys": "keys",
    "class token": "class token",
    "mixer": "Mamba",
    "branch": "ResNet",
    "stage entry": "ResNet",
    "grid": "ResNet",
    "cells": "a prompt with images",
    "frame before": "a prompt with a video",
    "text": "a prompt with images",
    "last query": "a layer of a language model",
}
SOURCE = r"\s*\(([^()]*(?:arXiv \d|CVPR|ICCV|ICLR|ECCV)[^()]*)\)"
PAPER = r"[\w-]+ \((?:CVPR|ICCV|ICLR) \d+\)"


def settings(method):
    """The names of the settings, with the values they take; the default first."""
    found = {}
    for field in dataclasses.fields(method):
        home = next(kind for kind in method.__mro__ if field.name in inspect.get_annotations(kind))
        hint = eval(field.type, vars(sys.modules[home.__module__]))
        choices = [value for value in typing.get_args(hint) if value != field.default]
        found[field.name] = [field.default, *choices]
    return found


def of_settings(method, ask):
    """What ``ask`` says of a method, by the value of the setting that it depends on."""
    choices = settings(method)
    answers = {values: ask(method(*values)) for values in itertools.product(*choices.values())}
    if len(set(answers.values())) == 1:
        return next(iter(answers.values()))
    for at, name in enumerate(choices):
        by_value = {
            value: {a for v, a in answers.items() if v[at] == value} for value in choices[name]
        }
        if all(len(found) == 1 for found in by_value.values()):
            groups = {}
            for value, [answer] in by_value.items():
                groups.setdefault(answer, []).append(f"`{value}`")
            return "; ".join(f"{', '.join(values)}: {answer}" for answer, values in groups.items())
    raise ValueError(f"what {method.__name__} needs depends on several settings")


def needs(method):
    if any(isinstance(value, Score) for value in method.settings().values()):
        return "as its score"
    asked = method.required() if isinstance(method, Score) else method.needs
    asked |= {"grid"} if isinstance(method, GridReduction) else set()
    return ", ".join(dict.fromkeys(NEEDS[need] for need in NEEDS if need in asked)) or "none"


def forms_map(method):
    asked = needs(method)
    return asked if asked == "as its score" else "yes" if "attention map" in asked else "no"


def first_line(method):
    return re.sub(SOURCE, "", inspect.getdoc(method).partition("\n")[0])


def source(method):
    text = " ".join(inspect.getdoc(method).split())
    bracket = re.search(SOURCE, text)
    named = re.search(PAPER, text)
    cited = named[0] if named else bracket[1] if bracket else "-"
    return re.sub(r"arXiv (\d+\.\d+)", r"[arXiv \1](https://arxiv.org/abs/\1)", cited)


def described(method):
    choices = "; ".join(
        f"{name}: {', '.join(f'`{value}`' for value in values)}"
        for name, values in settings(method).items()
    )
    return [f"`{method()}`", choices or "-", first_line(method), source(method)]


def score_row(score):
    return [*described(score), of_settings(score, needs), of_settings(score, forms_map)]


def reduction_row(reduction):
    weighs = of_settings(reduction, lambda one: "yes" if one.proportional_attention else "no")
    return [
        *described(reduction),
        "yes" if reduction.scored else "no",
        "before MLP" if reduction.before_mlp else "after block",
        of_settings(reduction, needs),
        of_settings(reduction, forms_map),
        weighs,
    ]


def table(heads, rows):
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def built_in(kind):
    """The registered methods of the library itself, by label."""
    return [
        method
        for _, method in sorted(registered(kind).items())
        if method.__module__.startswith("repshift.")
    ]


def page():
    about = ["label, by default", "settings", "", "source"]
    scores = table([*about, "needs", "attention map"], map(score_row, built_in(Score)))
    reductions = table(
        [*about, "asks a score", "acts", "needs", "attention map", "proportional attention"],
        map(reduction_row, built_in(Reduction)),
    )
    return f"{HEAD}## Scores\n\n{scores}\n## Reductions\n\n{reductions}{OWN}"


if __name__ == "__main__":
    path = ROOT / "docs" / "methods.md"
    path.write_text(page(), encoding="utf-8")
    print(path)
