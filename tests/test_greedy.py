"""The greedy order of many tokens, taken in panels, against one token after the other."""

import pytest
import torch
from torch.nn import functional as F

import models
from repshift import Greedy, InputError, Plan, Random, Redundancy, Snapshots, StreamNorm, compress
from repshift.measure.memory import peak_memory
from repshift.sequence.diverse import PANEL, diverse_order


def one_by_one(worth, direction, diversity, count):
    """The first ``count`` of an image; of equals the earlier."""
    value, found = worth.clone(), []
    for _ in range(count):
        found.append(int(value.argmax()))
        value = value.minimum(worth - diversity * (direction @ direction[found[-1]]))
        value[found] = -torch.inf
    return found


def tokens(kind, count):
    """Directions whose products are exact, so that both ways meet the same ties."""
    generator = torch.Generator().manual_seed(count)
    if kind == "equal":
        return torch.eye(8)[[0] * count]
    if kind == "classes":
        return torch.eye(64)[torch.randint(64, (count,), generator=generator)]
    # Of 64 channels 16 are 1/4 or -1/4: cosines in sixteenths.
    places = torch.rand(count, 64, generator=generator).argsort(1)[:, :16]
    signs = torch.randint(2, (count, 16), generator=generator) - 0.5
    return torch.zeros(count, 64).scatter(1, places, 0.5 * signs)


@pytest.mark.parametrize("kind", ["equal", "classes", "many"])
@pytest.mark.parametrize("levels", [1, 5, 1000])
@pytest.mark.parametrize("diversity", [0.0, 1.0])
def test_panels_take_what_one_by_one_takes(kind, levels, diversity):
    counts, size = [0, 1, 170, 390], 3 * PANEL + 16
    direction = torch.stack([tokens(kind, size + image).narrow(0, 0, size) for image in range(4)])
    generator = torch.Generator().manual_seed(levels)
    worth = torch.randint(levels, (4, size), generator=generator) / 1024
    order = diverse_order(worth, direction, diversity, torch.tensor(counts), whole=False)
    for image, count in enumerate(counts):
        found = one_by_one(worth[image], direction[image], diversity, count)
        assert order[image].count_nonzero() == count
        assert order[image].argsort(descending=True, stable=True)[:count].tolist() == found
        assert order[image, found].tolist() == list(range(size, size - count, -1))
    whole = diverse_order(worth, direction, diversity, torch.tensor(counts), whole=True)
    assert torch.equal(whole, order)
    for same in (F.pad(direction, (0, size)), direction.bfloat16()):  # of wide ones all at once
        again = diverse_order(worth, same, diversity, torch.tensor(counts), whole=False)
        assert torch.equal(again, order)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("size", [10, 300])
def test_what_is_worth_nothing_is_never_taken(whole, size):
    direction = F.normalize(torch.randn(2, size, 16), dim=-1)
    worth = torch.rand(2, size)
    worth[0, 5:] = -torch.inf
    worth[1, 7] = torch.inf
    order = diverse_order(worth, direction, 1.0, None, whole)
    assert order[0].nonzero().flatten().tolist() == [0, 1, 2, 3, 4]
    assert order[1].sort().values.tolist() == list(range(1, size + 1))
    assert order[1].argmax() == 7


def test_an_image_does_not_depend_on_its_neighbours():
    stream = torch.randn(3, 400, 32)
    keep = torch.tensor([100, 399, 7])
    together = Greedy()(Snapshots(0, 0, stream, keep=keep)) > 0
    for image in range(3):
        alone = Greedy()(Snapshots(0, 0, stream[image : image + 1], keep=keep[image : image + 1]))
        assert torch.equal(alone[0] > 0, together[image])


@pytest.mark.parametrize("score", [Greedy(), Redundancy("tokens")], ids=str)
def test_memory_is_linear(score):
    peaks = []
    for size in (4096, 8192):
        seen = Snapshots(0, 0, torch.randn(1, size, 8), keep=torch.tensor([80]))
        peaks.append(peak_memory(lambda seen=seen: score(seen), torch.device("cpu")))
    assert peaks[1] < 2.3 * peaks[0]


@pytest.mark.parametrize("where", ["tokens", "score"])
def test_nan_is_an_error(where):
    stream = torch.randn(1, 300, 16)
    seen = Snapshots(0, 0, stream, keep=torch.tensor([20]))
    stream[0, 270, 3] = torch.inf if where == "tokens" else torch.nan
    order = Greedy(Random() if where == "tokens" else StreamNorm())(seen)
    assert order[0].isnan().nonzero().tolist() == [[270]]


def test_one_panel_where_no_value_can_be_looked_at():
    stream = torch.randn(2, 300, 16)
    score = Greedy(StreamNorm())
    expected = score(Snapshots(0, 0, stream))
    each = torch.func.vmap(lambda rows: score(Snapshots(0, 0, rows[None]))[0])(stream)
    assert torch.equal(each, expected)


def test_nan_names_the_block():
    broken, photos = models.build("deit"), models.images(2)
    broken.blocks[0].mlp.fc2.bias.data[0] = torch.nan
    with (
        compress(broken, Plan({1: 0.3}, Greedy(Random()))),
        pytest.raises(InputError, match="NaN"),
    ):
        broken(photos)
