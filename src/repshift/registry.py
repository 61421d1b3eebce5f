"""The scores and reductions by name, as labels, plan files and the command line find them.

It stands below both, so that each file registers its own class; importing ``repshift`` imports all
that are built in.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, TypeVar

from repshift.errors import InputError
from repshift.method import NAME, WORD, Method

M = TypeVar("M", bound=Method)

_METHODS: dict[str, type[Method]] = {}


def register(method: type[M]) -> type[M]:
    """Let labels, plan files and the command line find a score or a reduction by its name.

    A decorator, above ``@dataclass(frozen=True)``. The same class again (its module was reloaded,
    or a notebook's cell run twice) takes the place of the earlier one. What is registered is known
    where its module was imported; a command imports it by ``--import``.

    Args:
        method: A frozen dataclass, a subclass of ``Score`` or ``Reduction``, whose ``name`` is its
            own and whose settings (its fields) have defaults that are numbers, words, true or
            false, or another method of the same kind.

    Returns:
        The class itself.

    Raises:
        InputError: If the class is no such dataclass, its name is taken or cannot stand in a label,
            or a setting cannot be written to a label or a plan file.
    """
    _check_class(method)
    for field in dataclasses.fields(method):
        _check_setting(method, field)
    _check_name(method)
    _METHODS[method.name] = method
    return method


def registered(kind: type[M]) -> dict[str, type[M]]:
    """What was registered of a kind, by name: ``registered(Score)``, ``registered(Reduction)``."""
    return {name: method for name, method in _METHODS.items() if issubclass(method, kind)}


def _check_class(method: object) -> None:
    if not (isinstance(method, type) and issubclass(method, Method) and hasattr(method, "kind")):
        raise InputError(
            f"@register takes a class derived from repshift.Score or repshift.Reduction, got "
            f"{getattr(method, '__qualname__', repr(method))}; write for example class Mine(Score)"
        )
    parameters = vars(method).get("__dataclass_params__")
    if parameters is None or not (parameters.frozen and parameters.eq):
        raise InputError(
            f"{method.__qualname__} is not a frozen dataclass; write @dataclass(frozen=True) "
            "between @register and the class"
        )


def _check_setting(method: type[Method], field: dataclasses.Field[Any]) -> None:
    what, default = f"{method.__qualname__}.{field.name}", field.default
    contract = next(base for base in method.__mro__ if Method in base.__bases__)
    if field.name == "name" or hasattr(contract, field.name):
        raise InputError(
            f"{what} is no setting but a part of every {method.kind}; annotate it as ClassVar, or "
            "give the setting another name"
        )
    if default is dataclasses.MISSING or not field.init:
        raise InputError(
            f"the setting {what} has no default that can be read; write {field.name}: type = value"
        )
    same_kind = isinstance(default, Method) and default.kind == method.kind
    word = type(default) is str and re.fullmatch(WORD, default)
    if type(default) not in (bool, int, float) and not word and not same_kind:
        raise InputError(
            f"the setting {what} is {default!r}, which a label cannot hold; use a number, a word "
            f"without commas and brackets, true or false, or another {method.kind}"
        )
    if type(default) is int and field.type in (float, "float"):
        raise InputError(
            f"the setting {what} is a float, but its default {default} would be read as a whole "
            f"number; write {float(default)}"
        )


def _check_name(method: type[Method]) -> None:
    name = getattr(method, "name", None)
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise InputError(
            f"{method.__qualname__}.name is {name!r}, which no label can hold; write name: "
            'ClassVar[str] = "my-name", of letters, digits, - and _'
        )
    earlier = _METHODS.get(name)
    if earlier is not None and _place(earlier) != _place(method):
        raise InputError(
            f"the name {name!r} of {_place(method)} is that of {_place(earlier)} already; give "
            "it a name of its own"
        )


def _place(method: type) -> str:
    return f"{method.__module__}.{method.__qualname__}"
