"""Fewer tokens, same weights: Representation Shift for pretrained vision and video models.

The names come from ``repshift.public``, which is imported, with torch, when the first is asked for:
so the command can handle Ctrl-C before that takes its seconds.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from repshift.public import *  # noqa: F403
else:

    def __getattr__(name: str) -> object:
        if name.startswith("__") and name != "__all__":
            raise AttributeError(name)
        from importlib import import_module

        public = import_module("repshift.public")
        if name == "__all__" or name in public.__all__:
            return getattr(public, name)
        if name in globals():  # a module that was imported with them
            return globals()[name]
        raise AttributeError(f"module 'repshift' has no attribute {name!r}")

    def __dir__() -> list[str]:
        from importlib import import_module

        return sorted({*globals(), *import_module("repshift.public").__all__})
