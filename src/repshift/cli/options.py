"""What the commands' options mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from repshift.errors import InputError
from repshift.plan import Plan

if TYPE_CHECKING:
    import torch

# A tuple of what --import names; the flag is repeated. ``import`` is no name that a field can have.
Imports = Annotated[
    tuple[str, ...], tyro.conf.arg(name="import", metavar="MODULE"), tyro.conf.UseAppendAction
]


def read_plan(text: str) -> Plan:
    """A plan from a JSON file, a schedule ``0:0.2,3:0.2`` or one of the paper's names."""
    path = Path(text)
    if path.suffix == ".json" or path.is_file():
        try:
            return Plan.from_json(path.read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            raise InputError(f"the plan file {path} does not exist") from None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the plan file {path} cannot be read: {error}") from None
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    return Plan.from_schedule(text) if ":" in text else Plan.paper(text)


def with_method(plan: Plan, method: str | None) -> Plan:
    """The plan, by another method where one is named."""
    if plan.adaptive and method is not None:
        raise InputError(
            f"the levels of an adaptive plan are those of its own score, {plan.score}; leave "
            f"--method {method} out"
        )
    return plan if method is None else Plan.from_method(method, plan.drop)


def device(name: str) -> torch.device:
    """``--device``, if it can be used here."""
    import torch

    try:
        found = torch.device(name)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name} cannot be used here: {reason}") from None
    return found


def threads(count: int | None) -> None:
    """``--threads``: PyTorch's own choice if left out."""
    import torch

    if count is not None:
        positive("--threads", count)
        torch.set_num_threads(count)


def positive(flag: str, value: int) -> None:
    """``InputError`` that names the flag if the value is below 1."""
    if value < 1:
        raise InputError(f"{flag} is {value}; expected 1 or more")
