"""Maps of rows and columns, and how they are chosen, against plain loops on random grids."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repshift import GridMap, PerRowAndColumn, RowsAndColumns

FORMATS = [torch.contiguous_format, torch.channels_last]


@st.composite
def lines(draw, length):
    stay = draw(st.integers(1, length))
    return sorted(draw(st.permutations(range(length)))[:stay])


@st.composite
def choices(draw):
    """Scores with many ties, and how many rows and columns leave."""
    batch, height, width = (draw(st.integers(1, top)) for top in (3, 7, 7))
    values = st.lists(
        st.integers(0, 3), min_size=batch * height * width, max_size=batch * height * width
    )
    scores = torch.tensor(draw(values), dtype=torch.float32).view(batch, height, width)
    return scores, draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))


def features_of(grid, channels_last):
    batch, height, width = grid
    features = torch.randn(batch, 3, height, width)
    return features.contiguous(memory_format=FORMATS[channels_last])


def lowest(values, count):
    """Of equal ones the last go first, so that the earlier stay."""
    order = sorted(range(len(values)), key=lambda i: (values[i], -i))
    return set(order[:count])


def lines_by_loops(scores, rows, columns):
    """For each image, the places that stay, as lists of rows of (row, column)."""
    height, width = scores.shape
    row_means = [scores[i].mean().item() for i in range(height)]
    column_means = [scores[:, j].mean().item() for j in range(width)]
    dropped = lowest(row_means, rows), lowest(column_means, columns)
    return [
        [(i, j) for j in range(width) if j not in dropped[1]]
        for i in range(height)
        if i not in dropped[0]
    ]


def tokens_by_loops(scores, rows, columns):
    height, width = scores.shape
    packed = []
    for i in range(height):
        dropped = lowest(scores[i].tolist(), columns)
        packed.append([(i, j) for j in range(width) if j not in dropped])
    stacks = []
    for j in range(width - columns):
        stack = [row[j] for row in packed]
        dropped = lowest([scores[place].item() for place in stack], rows)
        stacks.append([place for i, place in enumerate(stack) if i not in dropped])
    return [[stack[i] for stack in stacks] for i in range(height - rows)]


REDUCTIONS = [(RowsAndColumns(), lines_by_loops), (PerRowAndColumn(), tokens_by_loops)]
quick = settings(max_examples=40, deadline=None)
each_reduction = pytest.mark.parametrize(
    ("reduction", "slow"), REDUCTIONS, ids=["rows-and-columns", "per-row-and-column"]
)


@each_reduction
@quick
@given(choices(), st.booleans())
def test_what_stays_is_what_loops_keep(reduction, slow, choice, channels_last):
    scores, rows, columns = choice
    features = features_of(scores.shape, channels_last)
    chosen = reduction.choose(scores, rows, columns)
    found = chosen.apply(features)
    for image, expected in enumerate(slow(s, rows, columns) for s in scores):
        for i, line in enumerate(expected):
            for j, (row, column) in enumerate(line):
                assert torch.equal(found[image, :, i, j], features[image, :, row, column])
                assert chosen.kept[image, i, j] == row * scores.shape[2] + column


@each_reduction
@quick
@given(choices(), st.booleans())
def test_restore_gives_every_place_the_nearest_survivor(reduction, slow, choice, channels_last):
    scores, rows, columns = choice
    chosen = reduction.choose(scores, rows, columns)
    left = features_of((len(scores), *chosen.kept.shape[1:]), channels_last)
    found = chosen.restore(left)
    height, width = scores.shape[1:]
    for image in range(len(scores)):
        across = chosen.columns[image].expand(height, -1).tolist()
        down = chosen.rows[image].expand(-1, width - columns).T.tolist()
        for i in range(height):
            for j in range(width):
                column = min(range(width - columns), key=lambda k: (abs(across[i][k] - j), k))
                row = min(range(height - rows), key=lambda k: (abs(down[column][k] - i), k))
                assert torch.equal(found[image, :, i, j], left[image, :, row, column])
    assert torch.equal(chosen.apply(found), left)


@each_reduction
@quick
@given(choices(), st.booleans())
def test_the_memory_format_stays(reduction, slow, choice, channels_last):
    scores, rows, columns = choice
    features = features_of(scores.shape, channels_last)
    chosen = reduction.choose(scores, rows, columns)
    left = chosen.apply(features)
    for before, found in ((features, left), (left, chosen.restore(left))):
        # A single row, column or position lies the same way in both.
        if not all(before.is_contiguous(memory_format=kind) for kind in FORMATS):
            assert found.is_contiguous(memory_format=FORMATS[channels_last])


@each_reduction
@quick
@given(choices())
def test_behind_a_stride_of_two_each_position_is_where_its_input_was(reduction, slow, choice):
    scores, rows, columns = choice
    chosen = reduction.choose(scores, rows, columns)
    later = chosen.strided()
    assert (later.height, later.width) == tuple(-(-n // 2) for n in scores.shape[1:])
    width = scores.shape[2]
    row, column = chosen.kept // width, chosen.kept % width
    row, column = (at[:, ::2, ::2] // 2 for at in (row, column))
    assert torch.equal(later.kept // later.width, row)
    if chosen.whole:
        assert torch.equal(later.kept % later.width, column)
    # Where columns differ from row to row, the first of two rows says which they are, also where
    # one row is all that is left.
    assert torch.equal(later.columns, chosen.columns[:, ::2, ::2] // 2)
    assert (later.rows.diff(dim=1) > 0).all()
    assert (later.columns.diff(dim=2) > 0).all()
    features = torch.randn(len(scores), 2, *later.kept.shape[1:])
    assert torch.equal(later.apply(later.restore(features)), features)


@quick
@given(choices())
def test_whole_lines_leave_the_same_by_either_reduction_if_columns_alone_differ(choice):
    scores, _, columns = choice
    same = scores[:, :1].expand_as(scores)
    first, second = (reduction.choose(same, 0, columns) for reduction, _ in REDUCTIONS)
    assert torch.equal(first.kept, second.kept)


def test_a_chain_of_halves_of_nothing_is_the_whole_grid():
    every = GridMap(torch.arange(5)[None, None], torch.arange(6)[None, :, None], 6, 5)
    assert torch.equal(every.kept[0].flatten(), torch.arange(30))
    half = every.strided()
    assert torch.equal(half.kept[0].flatten(), torch.arange(9))
    assert torch.equal(half.parent, half.kept)
