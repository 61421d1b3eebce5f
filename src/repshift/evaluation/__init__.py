"""What measures, reproduces and prepares. The commands are made of it; the library is not.

``repshift.evaluation.bench`` does what ``repshift bench`` does, for any model; it needs the extra
``bench``, and is imported when it is asked for.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from repshift.evaluation.tasks.any_model import bench

__all__ = ["bench"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from repshift.evaluation.tasks import any_model

    return any_model.bench
