"""A model by its name on the command line, whichever library it is of."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import TYPE_CHECKING, Any

from repshift.errors import InputError
from repshift.evaluation.data.batches import FileSource, MemorySource, Source
from repshift.evaluation.data.images import find_images, sample_photographs
from repshift.evaluation.data.labels import read_labels
from repshift.evaluation.zoo import offline, scenes
from repshift.evaluation.zoo.loaded import LoadedModel, Wanted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# What stands before the colon: the module here that loads it, and the extra that installs it.
LIBRARIES = {
    "timm": ("timm", "timm"),
    "hf": ("transformers", "transformers"),
    "open_clip": ("open_clip", "open-clip"),
    "torchvision": ("torchvision", "timm"),
}
NAMES = (
    f"{', '.join(offline.OFFLINE)}, timm:NAME, hf:NAME_OR_FOLDER, open_clip:NAME/PRETRAINED, "
    "torchvision:NAME and MODULE_OR_FILE.py:FUNCTION"
)


def load_model(
    name: str,
    checkpoint: Path | None = None,
    random_weights: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """The model of this name; ``InputError`` that says what there is, if there is none."""
    wanted = Wanted(checkpoint, random_weights, settings or {})
    library, colon, rest = name.partition(":")
    if colon and library in LIBRARIES:
        module, extra = LIBRARIES[library]
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            raise InputError(
                f"{name} needs {error.name}, which is not installed; install it with: "
                f"pip install 'repshift[bench,{extra}]'"
            ) from None
        return import_module(f"repshift.evaluation.zoo.{module}").load(rest, wanted)
    if colon and rest and library:
        return import_module("repshift.evaluation.zoo.own").load(name, wanted)
    if name.endswith(".py"):
        raise InputError(f"--model {name}: name the function that makes the model, {name}:FUNCTION")
    if name in scenes.NAMES:
        raise InputError(f"{name} answers questions: it goes with repshift bench and search alone")
    if name not in offline.OFFLINE:
        known = [*offline.OFFLINE, *scenes.NAMES]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.3)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise InputError(f"unknown model {name!r}{hint}; models are {NAMES}")
    if wanted != Wanted():
        raise InputError(
            f"{name} brings its own weights; --checkpoint, --random-weights and --model-args do "
            "not apply"
        )
    return offline.load(name)


def open_source(loaded: LoadedModel, images: Path | None, labels: bool) -> Source:
    """The images of a directory, or the model's own where none is given."""
    if images is not None:
        paths = find_images(images)
        if labels and not loaded.classes:
            raise InputError(f"{loaded.name} gives features, not classes; leave out --labels")
        if not labels:
            return FileSource(paths, loaded.prepare)
        known = read_labels(images, paths, loaded.classes)
        return FileSource(paths, loaded.prepare, known.numbers, classes=known.classes)
    if loaded.name in offline.OFFLINE and loaded.name.startswith("digits-"):
        from repshift.evaluation.zoo.digits import held_out_digits

        return MemorySource(*held_out_digits())
    if labels:
        raise InputError("the sample photographs have no labels; pass --images DIR with --labels")
    return FileSource(sample_photographs(), loaded.prepare)
