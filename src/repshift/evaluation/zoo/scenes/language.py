"""Questions about scenes, each with its answer, in words of a closed vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from repshift.evaluation.zoo.scenes.scene import CELL, COLOURS, EDGE, FRAMES, SHAPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator

    from repshift.evaluation.zoo.scenes.scene import Scene, Thing

KINDS = ("exists", "attribute", "count", "label", "place", "needle", "which", "order", "hops")
_SIDE = EDGE // CELL
_TURNS = ("first", "second", "last")


@dataclass(frozen=True)
class Question:
    """What is asked, and the words that answer it."""

    kind: str
    words: tuple[str, ...]
    answer: tuple[str, ...]


def ask_scene(scene: Scene, generator: Generator) -> list[Question]:
    """Nine questions: two each of existence, attribute and place, one of the others."""
    assert scene.label is not None
    assert scene.counted is not None
    assert scene.shared is not None
    word, many = scene.counted
    asked = [_exists(scene, generator, answer) for answer in ("yes", "no")]
    asked += [_attribute(scene, word, "attribute") for word in scene.named[:2]]
    asked += [_place(thing) for thing in _some(scene.things, 2, generator)]
    asked.append(_question("count", f"how many {_things(word)} are there", str(many)))
    asked.append(_question("label", "what does the label say", " ".join(scene.label.digits)))
    (told, answer), (own, other) = scene.shared, ("colour", "shape")
    if told in COLOURS:
        own, other = other, own
    asked.append(
        _question("hops", f"what {other} shares the {own} of the {_thing(told)}", answer)
    )
    return asked


def ask_crowd(scene: Scene) -> list[Question]:
    """Three questions, each about the one thing that has a word."""
    return [_attribute(scene, word, "needle") for word in scene.named]


def ask_pair(first: Scene, second: Scene, generator: Generator) -> list[Question]:
    """Two questions, each about something that one of the two images shows."""
    one, two = ([(thing.colour, thing.shape) for thing in each.things] for each in (first, second))
    asked = []
    for answer, here, there in (("first", one, two), ("second", two, one)):
        only = [pair for pair in here if pair not in there]
        if only:
            colour, shape = only[int(generator.integers(len(only)))]
            asked.append(_question("which", f"which image shows a {colour} {shape}", answer))
    return asked


def ask_film(scene: Scene) -> list[Question]:
    """Three questions: what comes first, second and last."""
    return [
        _question("order", f"which shape comes {turn}", thing.shape)
        for turn, thing in zip(_TURNS, scene.things, strict=False)
    ]


def vocabulary() -> tuple[str, ...]:
    """Every word, after the marks of a prompt."""
    marks = ("<pad>", "<image>", "<video>", "<vision>", "</vision>", "<end>", ":")
    asked = (
        "is there a what colour shape is the thing how many are things does label say where which "
        "image shows comes shares of yes no"
    ).split()
    places = [f"{axis}{at}" for axis in ("row", "column") for at in range(_SIDE)]
    times = [f"<{at}>" for at in range(FRAMES)]
    digits = [str(digit) for digit in range(10)]
    plurals = [_plural(shape) for shape in SHAPES]
    return tuple(
        dict.fromkeys(
            [*marks, *asked, *_TURNS, *COLOURS, *SHAPES, *plurals, *digits, *places, *times]
        )
    )


def _exists(scene: Scene, generator: Generator, answer: str) -> Question:
    there = [(thing.colour, thing.shape) for thing in scene.things]
    if answer == "no":
        # Half of what is absent has a colour and a shape that are there, but not together.
        near = generator.random() < 0.5
        colours = {colour for colour, _ in there} if near else COLOURS
        shapes = {shape for _, shape in there} if near else SHAPES
        wanted = [
            (colour, shape)
            for colour in COLOURS
            for shape in SHAPES
            if colour in colours and shape in shapes and (colour, shape) not in there
        ]
    else:
        wanted = there
    colour, shape = wanted[int(generator.integers(len(wanted)))]
    return _question("exists", f"is there a {colour} {shape}", answer)


def _attribute(scene: Scene, word: str, kind: str) -> Question:
    (thing,) = (one for one in scene.things if word in (one.colour, one.shape))
    if word in COLOURS:
        return _question(kind, f"what shape is the {_thing(word)}", thing.shape)
    return _question(kind, f"what colour is the {_thing(word)}", thing.colour)


def _place(thing: Thing) -> Question:
    row, column = thing.cell
    words = f"where is the {thing.colour} {thing.shape}"
    return _question("place", words, f"row{row} column{column}")


def _thing(word: str) -> str:
    return f"{word} thing" if word in COLOURS else word


def _things(word: str) -> str:
    return f"{word} things" if word in COLOURS else _plural(word)


def _plural(shape: str) -> str:
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def _question(kind: str, words: str, answer: str) -> Question:
    return Question(kind, tuple(words.split()), tuple(answer.split()))


def _some(things: Sequence[Thing], count: int, generator: Generator) -> list[Thing]:
    return [things[int(at)] for at in generator.permutation(len(things))[:count]]
