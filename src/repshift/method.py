"""What every score and every reduction is: a frozen dataclass whose ``str`` is its label."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from repshift.errors import InputError


@dataclass(frozen=True)
class Method:
    """Base of scores and reductions.

    Subclasses are frozen dataclasses and set ``name``. Their fields are their settings, the same in
    Python, in a plan's JSON and in the label ``name(setting, setting)`` of tables, plots and files.
    A setting is a number, a word, or another method of the same kind.
    """

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
        value = settings.get(field.name, field.default)
        if isinstance(field.default, Method):
            if field.name in settings:
                settings[field.name] = from_dict(known, value)
        elif type(value) is not type(field.default):
            raise InputError(f"{chosen.name}: {field.name} cannot be {value!r}")
    return chosen(**settings)


def from_label(known: Mapping[str, type[M]], label: str) -> M:
    """Read ``name`` or ``name(value, value)``, values in the order of the fields."""
    match = re.fullmatch(r"\s*([\w-]+)\s*(?:\((.*)\))?\s*", label)
    if match is None:
        raise InputError(f"cannot read {label!r}; write a name or name(value, value)")
    chosen = _choose(known, match[1])
    # Commas inside a further pair of brackets belong to that method's label.
    values = [value.strip() for value in re.findall(r"(?:\([^()]*\)|[^,(])+", match[2] or "")]
    fields = dataclasses.fields(chosen)
    if len(values) > len(fields):
        raise InputError(f"{label!r} has {len(values)} values; {chosen.name} takes {len(fields)}")
    read: dict[str, Any] = {}
    for field, value in zip(fields, values, strict=False):
        if isinstance(field.default, Method):
            read[field.name] = from_label(known, value)
            continue
        try:
            read[field.name] = type(field.default)(value)
        except ValueError:
            raise InputError(f"{chosen.name}: {field.name} cannot be {value!r}") from None
    return chosen(**read)


def _choose(known: Mapping[str, type[M]], name: object) -> type[M]:
    if not isinstance(name, str) or name not in known:
        raise InputError(f"{name!r} is not one of {', '.join(sorted(known))}")
    return known[name]
