"""Questions about scenes, each with its answer, in words of a closed vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from repshift.evaluation.zoo.scenes.scene import CELL, COLOURS, EDGE, FRAMES, SHAPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator

    from repshift.evaluation.zoo.scenes.scene import Scene, Thing

KINDS = (
    "exists", "close", "attribute", "count", "label", "place", "needle", "which", "order", "hops"
)  # fmt: skip
_SIDE = EDGE // CELL
_TURNS = ("first", "second", "last")


@dataclass(frozen=True)
class Question:
    """What is asked, the words that answer it, and the things that must be seen for that.

    Two hops see one thing after the other; of two images it is a thing in the one that shows it.
    """

    kind: str
    words: tuple[str, ...]
    answer: tuple[str, ...]
    about: tuple[Thing, ...] = ()


def ask_scene(scene: Scene, generator: Generator) -> list[Question]:
    """Nine questions: two each of existence, attribute and place, one of the others."""
    assert scene.counted is not None
    assert scene.shared is not None
    word, many = scene.counted
    asked = [_exists(scene, generator, answer) for answer in ("yes", "no")]
    asked += [_attribute(scene, word, "attribute") for word in scene.named[:2]]
    asked += [_place(thing) for thing in _some(scene.things, 2, generator)]
    counted = _with(scene.things, word)
    asked.append(_question("count", f"how many {_things(word)} are there", str(many), counted))
    asked.append(_question("label", "what does the label say", " ".join(scene.labels[0].digits)))
    (told, answer), (own, other) = scene.shared, ("colour", "shape")
    if told in COLOURS:
        own, other = other, own
    (one,) = _with(scene.things, told)
    (two,) = (
        thing
        for thing in _with(scene.things, answer)
        if {thing.shape, thing.colour} & {one.shape, one.colour}
    )
    words = f"what {other} shares the {own} of the {_thing(told)}"
    asked.append(_question("hops", words, answer, (one, two)))
    return asked


def ask_crowd(scene: Scene) -> list[Question]:
    """Three questions, each about the one thing that has a word."""
    return [_attribute(scene, word, "needle") for word in scene.named]


def ask_close(scene: Scene, generator: Generator) -> list[Question]:
    """Two questions: one thing is there, one is not."""
    return [_exists(scene, generator, answer, "close") for answer in ("yes", "no")]


def ask_pair(first: Scene, second: Scene, generator: Generator) -> list[Question]:
    """Two questions, each about something that one of the two images shows."""
    asked = []
    for answer, here, other in (("first", first, second), ("second", second, first)):
        there = {(thing.colour, thing.shape) for thing in other.things}
        only = [thing for thing in here.things if (thing.colour, thing.shape) not in there]
        if only:
            thing = only[int(generator.integers(len(only)))]
            words = f"which image shows a {thing.colour} {thing.shape}"
            asked.append(_question("which", words, answer, (thing,)))
    return asked


def ask_film(scene: Scene) -> list[Question]:
    """Three questions: what comes first, second and last."""
    return [
        _question("order", f"which shape comes {turn}", thing.shape, (thing,))
        for turn, thing in zip(_TURNS, scene.things, strict=False)
    ]


def vocabulary() -> tuple[str, ...]:
    """Every word, after the marks of a prompt."""
    marks = ("<pad>", "<image>", "<video>", "<vision>", "</vision>", "<end>", ":")
    asked = ["is", "there", "a", "what", "colour", "shape", "the", "thing", "how", "many", "are"]
    asked += ["things", "does", "label", "say", "where", "which", "image", "shows", "comes"]
    asked += ["shares", "of", "yes", "no"]
    places = [f"{axis}{at}" for axis in ("row", "column") for at in range(_SIDE)]
    times = [f"<{at}>" for at in range(FRAMES)]
    digits = [str(digit) for digit in range(10)]
    plurals = [_plural(shape) for shape in SHAPES]
    return tuple(
        dict.fromkeys(
            [*marks, *asked, *_TURNS, *COLOURS, *SHAPES, *plurals, *digits, *places, *times]
        )
    )


def _exists(scene: Scene, generator: Generator, answer: str, kind: str = "exists") -> Question:
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
    at = int(generator.integers(len(wanted)))
    about = () if answer == "no" else (scene.things[at],)
    return _question(kind, f"is there a {' '.join(wanted[at])}", answer, about)


def _attribute(scene: Scene, word: str, kind: str) -> Question:
    (thing,) = _with(scene.things, word)
    sought, answer = ("shape", thing.shape) if word in COLOURS else ("colour", thing.colour)
    return _question(kind, f"what {sought} is the {_thing(word)}", answer, (thing,))


def _place(thing: Thing) -> Question:
    row, column = thing.cell
    words = f"where is the {thing.colour} {thing.shape}"
    return _question("place", words, f"row{row} column{column}", (thing,))


def _thing(word: str) -> str:
    return f"{word} thing" if word in COLOURS else word


def _things(word: str) -> str:
    return f"{word} things" if word in COLOURS else _plural(word)


def _plural(shape: str) -> str:
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def _with(things: Sequence[Thing], word: str) -> tuple[Thing, ...]:
    return tuple(thing for thing in things if word in (thing.colour, thing.shape))


def _question(kind: str, words: str, answer: str, about: tuple[Thing, ...] = ()) -> Question:
    return Question(kind, tuple(words.split()), tuple(answer.split()), about)


def _some(things: Sequence[Thing], count: int, generator: Generator) -> list[Thing]:
    return [things[int(at)] for at in generator.permutation(len(things))[:count]]
