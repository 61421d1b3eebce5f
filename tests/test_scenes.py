"""Generated scenes and questions: the same each time, and told by nothing but the picture."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from repshift.evaluation.data.images import sample_photographs
from repshift.evaluation.zoo.scenes.held_out import held_out
from repshift.evaluation.zoo.scenes.language import KINDS, vocabulary
from repshift.evaluation.zoo.scenes.photographs import (
    JUDGED,
    TRAINED,
    _photograph,
    on_photograph,
    photograph,
)
from repshift.evaluation.zoo.scenes.render import render
from repshift.evaluation.zoo.scenes.scene import CARD, CELL, COLOURS, EDGE, FRAMES, SHAPES

CHANCE = {
    "exists": 1 / 2, "close": 1 / 2, "attribute": 1 / 6, "count": 1 / 5, "label": 1 / 1000,
    "place": 1 / 64, "needle": 1 / 6, "which": 1 / 2, "order": 1 / 6, "hops": 1 / 5,
}  # fmt: skip


@pytest.fixture(scope="module")
def items():
    return held_out(300)


def test_the_same_each_time(items):
    assert held_out(5) == items[: 5 * len(KINDS)]
    scene = items[0].scenes[0]
    assert np.array_equal(render(scene), render(scene))


def test_every_kind_as_often(items):
    assert Counter(item.question.kind for item in items) == dict.fromkeys(KINDS, 300)
    words = {word for item in items for word in (*item.question.words, *item.question.answer)}
    assert words <= set(vocabulary())


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_picture_an_answer_is_chance(items, kind):
    """The best guess by the words alone, found on one half and judged on the other."""
    own = [item.question for item in items if item.question.kind == kind]
    seen, told = own[::2], own[1::2]
    # What may give an answer away: the form of the question.
    guesses = {}
    for form in {question.words[:2] for question in seen}:
        answers = Counter(one.answer for one in seen if one.words[:2] == form)
        guesses[form] = answers.most_common(1)[0][0]
    right = np.mean([guesses.get(one.words[:2]) == one.answer for one in told])
    assert right < CHANCE[kind] + 0.13


def test_answers_are_those_of_the_scene(items):
    for item in items[:450]:
        question, scene = item.question, item.scenes[0]
        pairs = [(thing.colour, thing.shape) for thing in scene.things]
        asked = [word for word in question.words if word in (*COLOURS, *SHAPES)]
        answer = question.answer
        match question.kind:
            case "exists" | "close":
                assert answer == ("yes" if tuple(asked) in pairs else "no",)
            case "attribute" | "needle":
                (pair,) = (pair for pair in pairs if asked[0] in pair)
                assert answer[0] in set(pair) - set(asked)
            case "count":
                word = next(w for w in (*COLOURS, *SHAPES) if question.words[2].startswith(w))
                assert int(answer[0]) == sum(word in pair for pair in pairs)
            case "label":
                assert "".join(answer) == scene.labels[0].digits
            case "place":
                (thing,) = (one for one in scene.things if [one.colour, one.shape] == asked)
                assert answer == (f"row{thing.y // 28}", f"column{thing.x // 28}")
            case "which":
                shown = [any([t.colour, t.shape] == asked for t in s.things) for s in item.scenes]
                assert shown == [answer == ("first",), answer == ("second",)]
            case "order":
                starts = {one.start: one.shape for one in scene.things if one.start}
                turn = {"first": 0, "second": 1, "last": -1}[question.words[-1]]
                assert answer == (starts[sorted(starts)[turn]],)
            case "hops":
                (told,) = (pair for pair in pairs if asked[0] in pair)
                (shared,) = set(told) - set(asked)
                (other,) = (pair for pair in pairs if shared in pair and pair != told)
                assert answer == tuple(set(other) - {shared})


def test_a_close_up_shows_things_of_many_tokens(items):
    for item in items[:100]:
        if item.question.kind == "close":
            sizes = [3.14 * (thing.radius / CELL) ** 2 for thing in item.scenes[0].things]
            assert len(sizes) == 2
            assert min(sizes) > 6


def test_what_is_drawn_is_there(items):
    scene = items[0].scenes[0]
    image = render(scene)[0].astype(int)
    assert image.shape == (3, EDGE, EDGE)
    for thing in scene.things:
        if thing.shape in ("ring", "star"):
            continue  # no paint at the centre, or little
        red, green, blue = image[:, thing.y, thing.x]
        if thing.colour == "red":
            assert red > green + 80
        if thing.colour == "blue":
            assert blue > red + 80
    corner = image[:, scene.labels[0].y + 2, scene.labels[0].x + CARD[0] - 3]
    assert corner.min() > 190


def test_things_are_drawn_on_photographs(items):
    scene = on_photograph(items[0].scenes[0], ("coffee.png",))
    image = render(scene)[0].astype(int)
    assert np.array_equal(image, render(scene)[0])
    ground = render(replace(scene, things=(), labels=()))[0].astype(int)
    changed = (np.abs(image - ground) > 20).any(0)
    rows, columns = np.mgrid[:EDGE, :EDGE]
    far = np.ones((EDGE, EDGE), bool)
    for thing in scene.things:
        far &= np.hypot(columns - thing.x, rows - thing.y) > 1.5 * thing.radius
        if thing.shape not in ("ring", "star"):
            assert changed[thing.y, thing.x]
    (label,) = scene.labels
    far[label.y : label.y + CARD[1], label.x : label.x + CARD[0]] = False
    assert not changed[far].any()
    # A square of that photograph, no smaller than the scene.
    square = photograph("coffee.png", 300, np.random.default_rng(0))
    whole = np.asarray(_photograph("coffee.png")).transpose(2, 0, 1)
    assert square.shape == (3, 300, 300)
    assert abs(square.mean((1, 2)) - whole.mean((1, 2))).max() < 60


def test_the_model_is_judged_on_photographs_it_was_not_trained_on():
    assert sorted([*JUDGED, *TRAINED]) == sorted(path.name for path in sample_photographs())


def test_a_thing_of_a_film_is_there_from_start_to_end(items):
    film = next(item.scenes[0] for item in items if item.question.kind == "order")
    frames = render(film).astype(int)
    assert len(frames) == FRAMES
    thing = film.things[0]
    box = np.s_[thing.y - thing.radius : thing.y + thing.radius,
                thing.x - thing.radius : thing.x + thing.radius]  # fmt: skip
    changed = [np.abs(frame[:, *box] - frames[0][:, *box]).mean() > 15 for frame in frames]
    assert changed == [thing.start <= at < thing.end for at in range(FRAMES)]


def test_patches_stand_in_the_order_of_the_model():
    from repshift.evaluation.zoo.scenes.model import patches

    image = torch.arange(56 * 56).view(1, 1, 56, 56).expand(1, 3, 56, 56) % 256
    cut = patches(image.to(torch.uint8))
    assert cut.shape == (1, 16, 3 * 14 * 14)
    # The second patch is right of the first, the third below; the fifth opens the next cell.
    corners = [(0, 0), (0, 14), (14, 0), (14, 14), (0, 28)]
    for at, (row, column) in enumerate(corners):
        own = image[0, :, row : row + 14, column : column + 14].float() / 127.5 - 1
        assert torch.equal(cut[0, at], own.flatten())
