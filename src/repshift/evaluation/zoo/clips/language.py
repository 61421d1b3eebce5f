"""What is said of a scene: captions, and questions with one-phrase answers."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

from repshift.evaluation.zoo.clips.scene import COLOURS, MOTIONS, SHAPES, SIZES, TEXTURES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator

    from repshift.evaluation.zoo.clips.scene import Scene, Thing

_SIZE = {"small": ("small", "little"), "medium": ("medium",), "large": ("large", "big")}
_MOTION = {
    "left": ("moves left", "goes to the left"),
    "right": ("moves right", "goes to the right"),
    "up": ("moves up", "rises"),
    "down": ("moves down", "falls"),
    "grows": ("grows", "gets bigger"),
    "shrinks": ("shrinks", "gets smaller"),
    "blinks": ("blinks", "flashes"),
    "rests": ("rests", "stands still"),
}
_ORDER = {
    "in turn": (
        "{first}, then {second}",
        "first {first}, then {second}",
        "{first} before {second}",
        "{second} after {first}",
    ),
    "together": ("{first} while {second}", "{second} while {first}", "{second} and {first}"),
}
_TEXTURE = ("", "", " on a {} background", " before a {} wall")
_QUESTION = {
    "colour": "what colour is the {shape}?",
    "shape": "what shape is {colour}?",
    "size": "how big is the {colour} {shape}?",
    "motion": "what does the {colour} {shape} do?",
    "texture": "what is the background like?",
    "first": "which shape moves first?",
}

ANSWERS = (*COLOURS, *SHAPES, *SIZES, *(_MOTION[one][0] for one in MOTIONS), *TEXTURES, "both")


def caption(scene: Scene, generator: Generator) -> str:
    """One of the sentences that describe a scene."""
    first, second = (_clause(thing, generator) for thing in (scene.first, scene.second))
    sentence = _pick(_ORDER[scene.order], generator).format(first=first, second=second)
    return sentence + _pick(_TEXTURE, generator).format(scene.texture)


def question(scene: Scene, generator: Generator) -> tuple[str, str]:
    """A question about a scene and its answer, one of ``ANSWERS``; all kinds equally often."""
    kind = _pick(tuple(_QUESTION), generator)
    thing = _pick((scene.first, scene.second), generator)
    if kind == "size" and thing.motion in ("grows", "shrinks"):
        kind = "motion"  # its size has no one word
    text = _QUESTION[kind].format(shape=thing.shape, colour=thing.colour)
    if kind == "texture":
        return text, scene.texture
    if kind == "first":
        return text, "both" if scene.order == "together" else scene.first.shape
    return text, _MOTION[thing.motion][0] if kind == "motion" else getattr(thing, kind)


def vocabulary() -> list[str]:
    """The word pieces: every word of the grammar, and letters, to spell the rest with."""
    sentences = [
        *(word for group in (SHAPES, COLOURS, TEXTURES, ANSWERS) for word in group),
        *(phrase for group in (*_SIZE.values(), *_MOTION.values()) for phrase in group),
        *(form.format(first="a", second="a") for forms in _ORDER.values() for form in forms),
        *(form.format("a") for form in _TEXTURE),
        *(form.format(shape="a", colour="a") for form in _QUESTION.values()),
    ]
    words = sorted({word.strip(",?") for sentence in sentences for word in sentence.split()})
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = [start + letter for start, letter in product(("", "##"), letters)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return list(dict.fromkeys([*special, *words, *pieces]))


def _clause(thing: Thing, generator: Generator) -> str:
    size, motion = _pick(_SIZE[thing.size], generator), _pick(_MOTION[thing.motion], generator)
    return f"a {size} {thing.colour} {thing.shape} {motion}"


def _pick(options: Sequence[Any], generator: Generator) -> Any:
    return options[int(generator.integers(len(options)))]
