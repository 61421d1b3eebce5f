"""Batches of scenes and questions about them, for ``train_scenes.py``.

A row of a batch holds many questions: each sees what its image shows and itself alone, so that an
image is read once for all of them. Beside the words to be said stands what the generator knows:
what each cell shows, and which cells an answer should be read from.
"""

import numpy as np
import torch
from torch.utils.data import Dataset

from repshift.evaluation.zoo.clips.scene import TEXTURES
from repshift.evaluation.zoo.scenes.language import (
    KINDS,
    ask_close,
    ask_crowd,
    ask_film,
    ask_pair,
    ask_scene,
)
from repshift.evaluation.zoo.scenes.model import WORDS
from repshift.evaluation.zoo.scenes.photographs import on_photograph
from repshift.evaluation.zoo.scenes.prompt import ASK, ids, seen
from repshift.evaluation.zoo.scenes.render import render
from repshift.evaluation.zoo.scenes.scene import (
    CARD,
    CELL,
    COLOURS,
    EDGE,
    FILM_EDGE,
    FRAMES,
    SHAPES,
    Label,
    Scene,
    draw_close,
    draw_crowd,
    draw_film,
    draw_scene,
)

SCENES, CROWDS, SHEETS, CLOSE, FILMS, PAIRS = 16, 3, 3, 5, 5, 5  # of a step
EARLY = 14, 3, 5, 4  # of them asked before what is seen: one question each
# The steps at which cycles end. From the second on there are twice as many films, in the third
# close-ups too.
CYCLES = 1100, 2000, 2600
# On photographs more sheets in the second one: digits are learnt last.
PHOTO_CYCLES, MORE_SHEETS = (1200, 2600), 8
LENGTH, VISUAL = 176, 128  # of a row: tokens, and those of them that are seen
SIDE, FILM_SIDE = EDGE // CELL, FILM_EDGE // CELL
TOLD = (len(SHAPES) + 1, len(COLOURS) + 1, 11, 11, 11)  # what a cell shows: 0 is nothing
TURNS = 5  # what a cell of a film shows: nothing, what is always there, what comes first, ...


class Row:
    """Tokens of one row of a batch: segments, each something seen and questions about it.

    ``line``: the model counts all tokens one after the other; without, it counts the rows and
    columns of what is seen.
    """

    def __init__(self, line: bool = False) -> None:
        self.line = line
        self.ids: list[int] = []
        self.labels: list[int] = []
        self.kinds: list[int] = []
        self.segment: list[int] = []
        self.branch: list[int] = []
        self.places: list[tuple[int, int, int]] = []
        self.spots: list[tuple[int, int]] = []  # row and column in an image
        self.columns: list[int] = []
        self.cells: list[int] = []
        # Token, and which of the cells it should look at, first and last.
        self.looks: list[tuple[int, np.ndarray, np.ndarray]] = []
        self._segment = 0

    def add(self, scenes, cells, questions, early=False):
        """``cells``: numbers of the features; ``early``: the one question stands in front."""
        film = scenes[0].frames > 1
        edges = [scene.edge for scene in scenes for _ in range(scene.frames)]
        self._scenes, self._first = scenes, len(self.columns)
        words = seen(edges, film)
        branches = [question.words for question in questions]
        self._segment += 1
        at = 0
        if early:
            at = self._text(branches[0], 0, at)
            branches = [()]
        at = self._seen(words, edges, cells, at)
        for number, (question, asked) in enumerate(zip(questions, branches, strict=True), 1):
            self._ask(question, asked, number, at)

    def _text(self, words, branch, at):
        self.ids += ids(words)
        self.places += [(at + step,) * 3 for step in range(len(words))]
        self.spots += [(-100, -100)] * len(words)
        self.branch += [branch] * len(words)
        self.segment += [self._segment] * len(words)
        self.labels += [-100] * len(words)
        self.kinds += [-1] * len(words)
        return at + len(words)

    def _seen(self, words, edges, cells, at):
        sides = iter([edge // CELL for edge in edges])
        start = None
        for word in words:
            if word not in ("<image>", "<video>"):
                if start is not None:
                    at, start = start[0] + (start[1] ** 2 if self.line else start[1]), None
                at = self._text([word], 0, at)
                continue
            if start is None:
                start, step = (at, next(sides)), 0
            row, column = divmod(step, start[1])
            self.columns.append(len(self.ids))
            self._text([word], 0, 0)
            self.places[-1] = (
                (start[0] + step,) * 3
                if self.line
                else (start[0], start[0] + row, start[0] + column)
            )
            if word == "<image>":
                self.spots[-1] = (row, column)
            step += 1
        self.cells += cells
        return at

    def _ask(self, question, asked, branch, at):
        answer = ids(question.answer)
        self._text([*asked, ASK, *question.answer], branch, at)
        ask = len(self.ids) - len(answer) - 1
        for step, (first, last) in enumerate(targets(self._scenes, question)):
            self.looks.append((ask + step, self._mark(first), self._mark(last)))
        told = [*answer, WORDS["<end>"]]
        self.labels[-len(told) :] = told
        self.kinds[-len(told) :] = [KINDS.index(question.kind)] * len(told)

    def cell_of(self):
        """For every token the number of its cell, None of a word."""
        own = dict(zip(self.columns, self.cells, strict=True))
        return [own.get(at) for at in range(len(self.ids))]

    def _mark(self, cells):
        marks = np.zeros(VISUAL, bool)
        marks[self._first : self._first + len(cells)] = cells
        return marks


def targets(scenes, question):
    """The cells that each word of the answer should be read from, first and last."""
    if question.kind == "label":
        label, side = scenes[0].labels[0], EDGE // CELL
        row = (label.y + CARD[1] // 2) // CELL
        for at in range(3):
            cells = np.zeros((side, side), bool)
            cells[row, (label.x + 11 + 18 * at) // CELL] = True
            yield cells.ravel(), cells.ravel()
    elif question.about:
        each = [
            np.concatenate([where(scene, thing) * (thing in scene.things) for scene in scenes])
            for thing in question.about
        ]
        first, last = each[0], each[-1]
        if question.kind == "count":
            first = last = np.any(each, 0)
        for _ in question.answer:
            yield first, last


def where(scene, thing) -> np.ndarray:
    """The cells that show a thing."""
    middle = (np.arange(scene.edge // CELL) + 0.5) * CELL
    far = np.hypot(middle[None, :] - thing.x, middle[:, None] - thing.y)
    near = far < thing.radius * 0.8 + CELL * 0.25
    near[thing.cell] = True
    frames = np.zeros((scene.frames, *near.shape), bool)
    frames[thing.start : thing.end] = near
    return frames.ravel()


def draw_sheet(generator) -> Scene:
    """Fifteen labels of which nothing is asked, for the tower to learn their digits by."""
    labels = [
        Label("".join(map(str, generator.integers(0, 10, 3))), 72 * column + x, 43 * row + y)
        for row in range(5)
        for column in range(3)
        for x, y in [generator.integers(3, 13, 2).tolist()]
    ]
    texture, seed = str(generator.choice(TEXTURES)), int(generator.integers(2**31))
    return Scene((), texture, seed, labels=tuple(labels))


def turns(film) -> np.ndarray:
    """The turn of what each cell of each frame shows."""
    out = np.zeros(FRAMES * FILM_SIDE**2, np.int64)
    for number, thing in enumerate(film.things, 2):
        out[where(film, thing)] = number if thing.start else 1
    return out


def told(scene) -> np.ndarray:
    """What each cell of each frame shows: shape, colour, and the three digits' centres."""
    side = scene.edge // CELL
    out = np.zeros((scene.frames, side, side, len(TOLD)), np.int64)
    for thing in scene.things:
        said = SHAPES.index(thing.shape) + 1, COLOURS.index(thing.colour) + 1
        out[where(scene, thing).reshape(out.shape[:3]), :2] = said
    for label in scene.labels:
        row = (label.y + CARD[1] // 2) // CELL
        for at, digit in enumerate(label.digits):
            out[0, row, (label.x + 11 + 18 * at) // CELL, 2 + at] = int(digit) + 1
    return out.reshape(scene.frames, side * side, len(TOLD))


def batch(step: int, photographs: tuple[str, ...] = ()):
    """One step's pixels, what their cells show, and the rows of questions.

    On ``photographs`` there are close-ups from the first step on and no films.
    """
    draw = np.random.default_rng([1, step])
    times = 0 if photographs else 1 if step < CYCLES[0] else 2
    near = CLOSE if photographs or step >= CYCLES[1] else 0
    sheets = MORE_SHEETS if photographs and step >= PHOTO_CYCLES[0] else SHEETS

    def drawn(kind, count):
        scenes = [kind(draw) for _ in range(count)]
        return [on_photograph(one, photographs) for one in scenes] if photographs else scenes

    scenes, crowds = drawn(draw_scene, SCENES), drawn(draw_crowd, CROWDS)
    films = drawn(draw_film, times * FILMS)
    images = [*scenes, *crowds, *drawn(draw_sheet, sheets)]
    close = drawn(draw_close, near)
    images += close
    rows, size, line = [], SIDE**2, bool(photographs)

    def cells(number):
        return list(range(number * size, (number + 1) * size))

    def film_cells(number):
        total, start = FRAMES * FILM_SIDE**2, len(images) * size
        return list(range(start + number * total, start + (number + 1) * total))

    def one(questions):
        return [questions[int(draw.integers(len(questions)))]]

    asked = [ask_scene(scene, draw) for scene in scenes]
    for number, questions in enumerate(asked):
        rows.append(row := Row(line))
        row.add([scenes[number]], cells(number), questions)
    for number in range(EARLY[0]):
        if number % 2 == 0:
            rows.append(row := Row(line))
        row.add([scenes[number]], cells(number), one(asked[number]), early=True)
    for number, crowd in enumerate(crowds):
        rows.append(row := Row(line))
        questions = ask_crowd(crowd)
        row.add([crowd], cells(SCENES + number), questions)
        row.add([crowd], cells(SCENES + number), one(questions), early=True)
    for number, scene in enumerate(close, len(images) - len(close)):
        rows.append(row := Row(line))
        questions = [*ask_close(scene, draw), *ask_close(scene, draw)]
        row.add([scene], cells(number), questions)
        row.add([scene], cells(number), one(questions), early=True)
    pairs = draw.permutation(SCENES).tolist()
    for number in range(PAIRS):
        first, second = pairs[2 * number : 2 * number + 2]
        shown = [*cells(first), *cells(second)]
        both = [scenes[first], scenes[second]]
        questions = ask_pair(*both, draw)
        rows.append(row := Row(line))
        row.add(both, shown, questions)
        if number < EARLY[2]:
            rows.append(row := Row(line))
            row.add(both, shown, one(questions), early=True)
    for number, film in enumerate(films):
        questions = ask_film(film)
        rows.append(row := Row(line))
        row.add([film], film_cells(number), questions)
        if number < times * EARLY[3]:
            rows.append(row := Row(line))
            row.add([film], film_cells(number), one(questions), early=True)

    def full(lists, length, filler):
        return torch.tensor([[*one, *[filler] * (length - len(one))] for one in lists])

    turn = np.full(len(images) * size, -100)
    turn = np.concatenate([turn, *(turns(film) for film in films), [-100]])
    places = full([row.places for row in rows], LENGTH, (0, 0, 0)).permute(2, 0, 1)
    return {
        "images": torch.from_numpy(np.concatenate([render(scene) for scene in images])),
        "films": torch.from_numpy(
            np.concatenate([np.zeros((0, 3, FILM_EDGE, FILM_EDGE), np.uint8), *map(render, films)])
        ),
        "told": torch.from_numpy(
            np.concatenate([told(scene).reshape(-1, len(TOLD)) for scene in [*images, *films]])
        ),
        "ids": full([row.ids for row in rows], LENGTH, 0),
        "labels": full([row.labels for row in rows], LENGTH, -100),
        "kinds": full([row.kinds for row in rows], LENGTH, -1),
        "segment": full([row.segment for row in rows], LENGTH, 0),
        "branch": full([row.branch for row in rows], LENGTH, 0),
        "places": places.contiguous(),
        "spots": full([row.spots for row in rows], LENGTH, (-100, -100)).permute(2, 0, 1),
        "columns": full([row.columns for row in rows], VISUAL, LENGTH),
        "cells": full([row.cells for row in rows], VISUAL, 0),
        "turns": full(
            [[-100 if at is None else int(turn[at]) for at in row.cell_of()] for row in rows],
            LENGTH,
            -100,
        ),
        "looks": torch.tensor(
            [(at, token) for at, row in enumerate(rows) for token, _, _ in row.looks]
        ),
        "first": torch.from_numpy(np.stack([look[1] for row in rows for look in row.looks])),
        "last": torch.from_numpy(np.stack([look[2] for row in rows for look in row.looks])),
    }


class Batches(Dataset):
    """What a worker process makes: one batch a step, from ``start`` on."""

    def __init__(self, start, steps, photographs=()):
        self.steps, self.photographs = range(start, steps), photographs

    def __len__(self):
        return len(self.steps)

    def __getitem__(self, at):
        torch.set_num_threads(1)
        return batch(self.steps[at], self.photographs)
