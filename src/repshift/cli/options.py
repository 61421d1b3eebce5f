"""What the commands' options mean."""

from __future__ import annotations

import ast
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from repshift.errors import InputError
from repshift.plan import Plan
from repshift.plan_given import as_plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor

    from repshift.vision_language.plan import VisionLanguagePlan

# A tuple of what --import names; the flag is repeated. ``import`` is no name that a field can have.
Imports = Annotated[
    tuple[str, ...], tyro.conf.arg(name="import", metavar="MODULE"), tyro.conf.UseAppendAction
]

# What --model-args gives to what makes the model.
ModelArgs = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE")]

DEEPEST = 32  # a score of a score of a score ...
MOST = 2**31 - 1  # what PyTorch's kernels count up to
MOST_WORKERS = 256  # processes that decode; each takes some hundred megabytes


def read_plans(texts: Sequence[str], model: str) -> list[tuple[str, Plan]]:
    """``--plan``: several plans for ``--model``, each once, with what they were called."""
    return _distinct("--plan", [(text, read_plan(text, model)) for text in texts])


def read_plan(text: str, model: str) -> Plan:
    """``--plan``: one plan for ``--model``."""
    plan = as_plan(text)
    _note_other_model(text, plan, model)
    return plan


def read_prompt_plan(text: str, model: str) -> VisionLanguagePlan:
    """``--plan`` for a vision-language ``--model``, for which no plan has a name."""
    from repshift.vision_language.plan import VisionLanguagePlan

    if not text.endswith(".json"):
        raise InputError(
            f"--plan is {text}; a vision-language model takes JSON files of plans for it, such as "
            "repshift search writes"
        )
    plan = VisionLanguagePlan.load(text)
    _note_other_model(text, plan, model)
    return plan


def read_methods(labels: Sequence[str]) -> list[Plan]:
    """``--methods``: several methods, each once, as plans that drop nothing."""
    named = [(label, read_method(label)) for label in labels]
    return [method for _, method in _distinct("--methods", named)]


def read_method(label: str) -> Plan:
    """``--method``: a plan that drops nothing yet."""
    if label.count("(") > DEEPEST:
        raise InputError(f"the method {label[:20]}... is nested too deep; at most {DEEPEST} levels")
    return Plan.from_method(label, {})


def with_method(plan: Plan, label: str | None) -> Plan:
    """The plan, by another method where one is named."""
    method = None if label is None else read_method(label)
    if plan.adaptive and method is not None:
        raise InputError(
            f"the levels of an adaptive plan are those of its own score, {plan.score}; leave "
            f"--method {label} out"
        )
    return plan if method is None else replace(plan, score=method.score, reduction=method.reduction)


def device(name: str) -> torch.device:
    """``--device``, if it can be used here."""
    import torch

    try:
        found = torch.device(name)
        torch.ones(1, device=found).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]  # PyTorch goes on for a page
        raise InputError(f"--device {name} cannot be used here: {reason}") from None
    return found


def threads(count: int | None) -> None:
    """``--threads``: PyTorch's own choice if left out."""
    import torch

    if count is not None:
        positive("--threads", count)
        if count > (processors := os.cpu_count() or 1):
            raise InputError(f"--threads is {count}; this machine has {processors} processors")
        torch.set_num_threads(count)


def positive(flag: str, value: int) -> None:
    """``InputError`` that names the flag if the value is below 1, or beyond all use."""
    if value < 1:
        raise InputError(f"{flag} is {value}; expected 1 or more")
    if value > MOST:
        raise InputError(f"{flag} is {value}; expected at most {MOST}")


def workers(count: int) -> None:
    """``--workers``: ``InputError`` if there cannot be so many."""
    if not 0 <= count <= MOST_WORKERS:
        raise InputError(f"--workers is {count}; expected 0 (none) to {MOST_WORKERS}")


def batch_fits(count: int, example: Tensor, device: torch.device) -> None:
    """``InputError`` if ``count`` of what ``example`` is one of take more memory than there is."""
    import torch

    if device.type == "cuda":
        there = torch.cuda.mem_get_info(device)[1]
    elif hasattr(os, "sysconf"):
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:
        return
    if (needed := count * example.nbytes) > there:
        raise InputError(
            f"--batch-size is {count}; a batch takes {needed / 1e9:.0f} GB, and {device} has "
            f"{there / 1e9:.0f} GB of memory"
        )


def model_args(given: Sequence[str]) -> dict[str, Any]:
    """``--model-args``: values are read as Python writes them, other words as text."""
    found: dict[str, Any] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or not name.isidentifier() or name in found:
            raise InputError(f"--model-args {one}: expected NAME=VALUE, each name once")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def model_name(model: str) -> str:
    """What files are called by that hold results of ``--model``."""
    return model.replace(":", "-").replace("/", "-").lstrip(".-")


def _note_other_model(text: str, plan: Plan | VisionLanguagePlan, model: str) -> None:
    """Tell where a plan was found: what a search promised of one model holds for no other."""
    found_for = plan.provenance.get("model") if isinstance(plan.provenance, dict) else None
    if found_for not in (None, model):
        print(f"note: {text} was found for {found_for}, not for {model}", file=sys.stderr)


def _distinct(flag: str, named: list[tuple[str, Plan]]) -> list[tuple[str, Plan]]:
    first: dict[Plan, str] = {}
    for text, plan in named:
        if plan in first:
            known = first[plan]
            same = "" if known == text else f"is the same as {known}, which "
            raise InputError(f"{flag} {text} {same}is given already; give it once")
        first[plan] = text
    return named
