"""What every score and every reduction is: a frozen dataclass whose ``str`` is its label."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, get_args

from repshift.errors import InputError

# The names and the words that a label can hold.
NAME, WORD = r"[\w-]+", r"[^\s,()]+( [^\s,()]+)*"


@dataclass(frozen=True)
class Method:
    """Base of scores and reductions.

    Subclasses are frozen dataclasses and set ``name``. Their fields are their settings, the same in
    Python, in a plan's JSON and in the label ``name(setting, setting)`` of tables, plots and files.
    A setting has a default, and is a number, a word, true or false, or another method of the same
    ``kind``.
    """

    kind: ClassVar[str]
    name: ClassVar[str]

    def __str__(self) -> str:
        values = ", ".join(str(value) for value in self._label_values())
        return f"{self.name}({values})" if values else self.name

    def _label_values(self) -> list[Any]:
        return list(self.settings().values())

    def settings(self) -> dict[str, Any]:
        """The fields by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def to_dict(self) -> dict[str, Any]:
        """JSON form: the name and the settings."""
        settings = self.settings().items()
        return {"name": self.name} | {
            key: value.to_dict() if isinstance(value, Method) else value for key, value in settings
        }


def check_choice(name: str, value: object, choices: Any) -> None:
    """``InputError`` if a setting of the method ``name`` is none of the words of a ``Literal``."""
    if value not in get_args(choices):
        raise InputError(f"{name}: {value!r} is not one of {', '.join(get_args(choices))}")


M = TypeVar("M", bound=Method)


def from_dict(known: Mapping[str, type[M]], form: object) -> M:
    """Inverse of ``Method.to_dict``; ``known`` maps names to classes."""
    if not isinstance(form, Mapping):
        example = next(iter(known))
        raise InputError(f'got {form!r}, expected an object such as {{"name": "{example}"}}')
    settings = dict(form)
    chosen = _choose(known, settings.pop("name", None))
    allowed = [field.name for field in dataclasses.fields(chosen)]
    if extra := settings.keys() - set(allowed):
        raise InputError(
            f"{chosen.name} has no setting {', '.join(sorted(extra))}; "
            f"it takes {', '.join(allowed) or 'none'}"
        )
    for field in dataclasses.fields(chosen):
        if field.name not in settings:
            continue
        value = settings[field.name]
        if isinstance(field.default, Method):
            settings[field.name] = from_dict(known, value)
        elif type(field.default) is float and type(value) is int:
            settings[field.name] = float(value)
        elif type(value) is not type(field.default):
            raise InputError(f"{chosen.name}: {field.name} cannot be {value!r}")
    return chosen(**settings)


def from_label(known: Mapping[str, type[M]], label: str) -> M:
    """Read ``name`` or ``name(value, value)``, values in the order of the fields."""
    match = re.fullmatch(rf"\s*({NAME})\s*(?:\((.*)\))?\s*", label)
    if match is None:
        raise InputError(f"cannot read {label!r}; write a name or name(value, value)")
    chosen = _choose(known, match[1])
    values = split(match[2], ",") if match[2] and match[2].strip() else []
    fields = dataclasses.fields(chosen)
    if len(values) > len(fields):
        raise InputError(f"{label!r} has {len(values)} values; {chosen.name} takes {len(fields)}")
    read: dict[str, Any] = {}
    for field, value in zip(fields, values, strict=False):
        if isinstance(field.default, Method):
            read[field.name] = from_label(known, value)
            continue
        try:
            read[field.name] = _value(type(field.default), value)
        except ValueError:
            raise InputError(f"{chosen.name}: {field.name} cannot be {value!r}") from None
    return chosen(**read)


def split(text: str, separator: str) -> list[str]:
    """The parts between separators, but for those in brackets, which belong to a part's label."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _value(kind: type, text: str) -> Any:
    if kind is bool:
        if text.lower() not in {"true", "false"}:
            raise ValueError
        return text.lower() == "true"
    # int() and float() take "1_0" and the digits of other scripts too.
    if kind in (int, float) and (not text.isascii() or "_" in text):
        raise ValueError
    return kind(text)


def _choose(known: Mapping[str, type[M]], name: object) -> type[M]:
    if not isinstance(name, str) or name not in known:
        raise InputError(
            f"{name!r} is not one of {', '.join(sorted(known))}; one of your own is found once its "
            "module was imported (by a command: --import my_module or --import ./my_file.py)"
        )
    return known[name]
