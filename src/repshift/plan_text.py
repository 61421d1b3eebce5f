"""A plan as text: its JSON, a schedule, the label of a method."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from repshift.errors import InputError, quoted
from repshift.files import read_text
from repshift.measure.digest import code_digest
from repshift.method import Method, from_dict, from_label, split
from repshift.reductions import Reduction
from repshift.registry import registered
from repshift.scores import Score
from repshift.sequence.amounts import Level

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Key = TypeVar("Key", int, str)
AnyPlan = TypeVar("AnyPlan")

_DEEPEST = 32  # a score of a score of a score ...
_SIZES = ("input_size", "frames")
_WHOLE = re.compile("-?[0-9]+")
_LEVEL = re.compile(r"level\((.*)\)")

# Reductions as plan files of version 0.1 call them.
_OLD_NAMES = {"lines": "rows-and-columns", "line-tokens": "per-row-and-column"}


def to_form(
    drop: Mapping[int, float | int | Level],
    score: Score,
    reduction: Reduction,
    **sizes: int | None,
) -> dict[str, Any]:
    """The JSON form of a plan's parts; ``sizes`` of an input that is the model's own are None."""
    return {
        "drop": {
            str(block): {"level": amount.value} if isinstance(amount, Level) else amount
            for block, amount in drop.items()
        },
        "score": score.to_dict(),
        "reduction": reduction.to_dict(),
        **{name: size for name, size in sizes.items() if size is not None},
    }


def read_file(path: Path | str, read: Callable[[str], AnyPlan]) -> AnyPlan:
    """What ``read`` makes of a plan's JSON file; an ``InputError`` of it names the file."""
    text = read_text(Path(path), "a plan's JSON")
    try:
        return read(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def read_json(text: str) -> tuple[dict[str, Any], Any]:
    """The arguments of a plan from its JSON, and its provenance."""
    _check_text(text, "JSON text")
    try:
        form = json.loads(text, object_pairs_hook=_unique)
    except InputError:
        raise
    except RecursionError:
        raise InputError("the plan is nested too deep") from None
    except ValueError as error:  # a number of thousands of digits is none of the decoder's errors
        raise InputError(f"the plan is not JSON: {error}") from None
    if _depth(form) > _DEEPEST:
        raise InputError(f"the plan is nested too deep; expected at most {_DEEPEST} levels")
    if not isinstance(form, dict) or not isinstance(form.get("drop"), dict):
        raise InputError('a plan is a JSON object with "drop", such as {"drop": {"0": 0.2}}')
    if extra := form.keys() - {"drop", "score", "reduction", *_SIZES, "budget", "provenance"}:
        raise InputError(
            f"the plan has unknown keys {', '.join(sorted(extra))}; "
            "it takes drop, score, reduction, input_size and frames"
        )
    budget = form.get("budget", "fixed")
    if budget not in ("fixed", "adaptive"):
        raise InputError(f"budget is {budget!r}; expected fixed or adaptive")
    amounts = [
        (_block(key), _amount(value, budget == "adaptive")) for key, value in form["drop"].items()
    ]
    drop = _unique(amounts)
    parts: dict[str, Any] = {"drop": drop}
    if "score" in form:
        parts["score"] = from_dict(registered(Score), form["score"])
    if "reduction" in form:
        parts["reduction"] = from_dict(registered(Reduction), _renamed(form["reduction"]))
    parts |= {name: form[name] for name in _SIZES if name in form}
    return parts, form.get("provenance")


def read_label(label: str) -> dict[str, Any]:
    """Score and reduction from a label, ``score``, ``reduction`` or ``score + reduction``."""
    _check_text(label, "the label of a method, such as 'shift(mlp) + merge'")
    first, *further = split(label, "+")
    if further:
        score = from_label(registered(Score), first)
        return {
            "score": score,
            "reduction": from_label(registered(Reduction), "+".join(further)),
        }
    method = from_label(registered(Method), first)
    return {method.kind: method}


def read_schedule(text: str) -> dict[int, float | int | Level]:
    """What a plan drops from ``0:0.2,3:level(0.2),6:20``."""
    _check_text(text, "a schedule such as '0:0.2,3:0.2'")
    drop: list[tuple[int, float | int | Level]] = []
    for item in text.split(","):
        block, _, amount = item.partition(":")
        level = _LEVEL.fullmatch(amount.strip())
        try:
            value = _number(level[1] if level else amount.strip())
        except ValueError:
            raise InputError(
                f"cannot read {quoted(item, 100)} of the plan {quoted(text)}; write block:share or "
                "block:count, such as 0:0.2,3:0.2,6:20 (or block:level(share))"
            ) from None
        drop.append((_block(block.strip()), Level(float(value)) if level else value))
    return _unique(drop)


def code_of(*methods: Method) -> dict[str, Any]:
    """By name the digests of the methods among them that are not built in; nothing without any."""
    own = sorted(set().union(*map(_own, methods)), key=lambda kind: kind.name)
    code = {kind.name: code_digest(kind) for kind in own}
    return {"code": code} if code else {}


def check_registered(*methods: Method) -> None:
    """``InputError`` if one of the methods, or of those in their settings, has no known name."""
    for kind in set().union(*map(_own, methods)):
        if registered(Method).get(kind.name) is not kind:
            raise InputError(
                f"{kind.name} is not registered, so no file with it could be read; put @register "
                f"above the class {kind.__qualname__}"
            )


def _check_text(given: Any, expected: str) -> None:
    if not isinstance(given, str):
        raise InputError(f"got {given!r}; expected {expected}")


def _own(method: Method) -> set[type[Method]]:
    """The classes of a method, and of those in its settings, that are not built in."""
    inner = [value for value in method.settings().values() if isinstance(value, Method)]
    kinds = {type(method)}.union(*(_own(value) for value in inner))
    return {kind for kind in kinds if kind.__module__.partition(".")[0] != "repshift"}


def _amount(value: Any, adaptive: bool) -> Any:
    """An amount from its JSON; in an ``adaptive`` plan of version 0.1 a share is a level."""
    if isinstance(value, dict) and value.keys() == {"level"}:
        return Level(value["level"])
    return Level(value) if adaptive and isinstance(value, float) else value


def _block(key: str) -> int:
    try:
        if not _WHOLE.fullmatch(key):  # int() takes "1_0", " 1 " and digits of other scripts too
            raise ValueError
        return int(key)
    except ValueError:
        raise InputError(f"block {key[:40]!r} of the plan is not a whole number") from None


def _depth(form: Any) -> int:
    """How many objects lie in one another."""
    depth, level = 0, [form]
    while level:
        depth += 1
        level = [value for one in level if isinstance(one, dict) for value in one.values()]
    return depth


def _number(text: str) -> float | int:
    if not text.isascii() or "_" in text:
        raise ValueError
    return int(text) if text.isdecimal() else float(text)


def _renamed(reduction: Any) -> Any:
    """The JSON form of a reduction, by today's name."""
    if isinstance(reduction, dict) and isinstance(name := reduction.get("name"), str):
        return {**reduction, "name": _OLD_NAMES.get(name, name)}
    return reduction


def _unique(pairs: list[tuple[Key, Any]]) -> dict[Key, Any]:
    form = dict(pairs)
    if len(form) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        what = "drops block" if isinstance(twice, int) else "gives"
        raise InputError(f"the plan {what} {twice!r} twice")
    return form
