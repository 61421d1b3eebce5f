"""Token maps, pruning and tables that follow, against plain loops on random maps."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity

from repshift import Carrier, InputError, Prune, Rotary, TokenMap
from repshift.runtime.arguments import gather_arguments
from repshift.runtime.trace import ForwardTrace
from repshift.scores import Snapshots
from repshift.sequence.similarity import most_similar
from repshift.sequence.token_map import Step


@st.composite
def maps(draw, batch=None, dense=None):
    """A random map: who stays, and for each of the others any survivor."""
    batch = draw(st.integers(1, 3)) if batch is None else batch
    dense = draw(st.integers(1, 9)) if dense is None else dense
    count = draw(st.integers(1, dense))
    kept, parent = [], []
    for _ in range(batch):
        stay = sorted(draw(st.permutations(range(dense)))[:count])
        guest = st.integers(0, count - 1)
        kept.append(stay)
        parent.append([stay.index(i) if i in stay else draw(guest) for i in range(dense)])
    return TokenMap(torch.tensor(kept), torch.tensor(parent))


@st.composite
def chains(draw):
    first = draw(maps())
    return first, draw(maps(*first.kept.shape))


@st.composite
def prunings(draw):
    """Scores with many ties, and a number of tokens to drop that leaves one."""
    batch, prefix, patches = (
        draw(st.integers(1, 3)),
        draw(st.integers(0, 3)),
        draw(st.integers(1, 9)),
    )
    row = st.lists(st.integers(0, 4), min_size=prefix + patches, max_size=prefix + patches)
    scores = torch.tensor([draw(row) for _ in range(batch)], dtype=torch.float32)
    return scores, draw(st.integers(0, patches - 1)), prefix


def decide(reduction, tokens, scores, drop, prefix, **snapshot):
    """What a block asks of a reduction: prefix tokens have the score inf."""
    marked = scores.index_fill(1, torch.arange(prefix), torch.inf)
    return reduction(Snapshots(0, prefix, tokens, **snapshot), marked, drop)


@given(maps())
def test_apply_takes_the_survivors(token_map):
    tokens = torch.randn(*token_map.parent.shape, 2)
    survivors = token_map.apply(tokens)
    for image, row in enumerate(token_map.kept.tolist()):
        assert torch.equal(survivors[image], torch.stack([tokens[image, i] for i in row]))


@given(maps())
def test_restore_gives_every_place_the_value_of_its_stand_in(token_map):
    survivors = torch.randn(*token_map.kept.shape, 2)
    dense = token_map.restore(survivors)
    for image, row in enumerate(token_map.parent.tolist()):
        assert torch.equal(dense[image], torch.stack([survivors[image, i] for i in row]))
    assert torch.equal(token_map.apply(dense), survivors)


@given(chains())
def test_then_is_one_map_after_the_other(chain):
    first, later = chain
    both = first.then(later)
    tokens, survivors = torch.randn(*first.parent.shape, 2), torch.randn(*later.kept.shape, 2)
    assert torch.equal(both.apply(tokens), later.apply(first.apply(tokens)))
    assert torch.equal(both.restore(survivors), first.restore(later.restore(survivors)))


def test_identity_changes_nothing():
    tokens = torch.randn(2, 5, 3)
    same = TokenMap.identity(2, 5, tokens.device)
    assert torch.equal(same.apply(tokens), tokens)
    assert torch.equal(same.restore(tokens), tokens)


@given(prunings())
def test_prune_keeps_the_highest_scores_and_of_equal_ones_the_earlier(pruning):
    scores, drop, prefix = pruning
    tokens = torch.randn(*scores.shape, 4)
    step = decide(Prune(), tokens, scores, drop, prefix)
    token_map = step.map
    assert torch.equal(step.apply(tokens, None), token_map.apply(tokens))
    for image, row in enumerate(scores.tolist()):
        patches = sorted(range(prefix, len(row)), key=lambda token, row=row: (-row[token], token))
        stay = [*range(prefix), *sorted(patches[: len(patches) - drop])]
        assert token_map.kept[image].tolist() == stay


@given(prunings())
def test_homes_are_the_most_similar_surviving_patches(pruning):
    scores, drop, prefix = pruning
    tokens = torch.randn(*scores.shape, 4, dtype=torch.float64)
    token_map = decide(Prune(), tokens, scores, drop, prefix).map
    for x, kept, parent in zip(
        tokens, token_map.kept.tolist(), token_map.parent.tolist(), strict=True
    ):
        for token, place in enumerate(parent):
            if token in kept:
                assert kept[place] == token
            else:
                similar = [cosine_similarity(x[token], x[i], dim=0).item() for i in kept[prefix:]]
                assert place == prefix + similar.index(max(similar))


def test_the_most_similar_are_found_in_pieces_as_they_are_at_once():
    left, stayed = torch.randn(2, 40, 3), torch.randn(2, 9, 3)
    similar = cosine_similarity(left[:, :, None], stayed[:, None], dim=-1)
    assert torch.equal(most_similar(left, stayed, prefix=2), similar[:, :, 2:].argmax(-1) + 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_large_activations_find_their_like_in_every_precision(dtype):
    stayed, order = 100 * torch.randn(1, 6, 64), torch.tensor([[3, 1, 4, 5, 2]])
    left = stayed[:, order[0]] + torch.randn(1, 5, 64)
    assert torch.equal(most_similar(left.to(dtype), stayed.to(dtype), prefix=1), order)


def test_a_survivor_of_length_zero_is_like_nobody():
    stayed = torch.eye(4)[None].index_fill(1, torch.tensor([1]), 0.0)
    assert most_similar(torch.eye(4)[None, 2:], stayed, prefix=0).tolist() == [[2, 3]]


def test_restore_of_another_length_is_refused():
    same = TokenMap.identity(2, 5, torch.device("cpu"))
    with pytest.raises(
        InputError, match=r"got features of shape \[2, 4, 3\], expected \[2, 5, C\]"
    ):
        same.restore(torch.randn(2, 4, 3))


KEPT = torch.tensor([[0, 1, 4], [0, 3, 6]])  # of 7 tokens, the first a prefix


@pytest.mark.parametrize("shape", [(7, 4), (2, 7, 4), (1, 2, 7, 4), (2, 2, 7, 4), (2, 1, 7, 4)])
def test_a_table_follows_along_its_tokens(shape):
    table = torch.randn(shape)
    dense = table.expand(2, 2, 7, 4)
    assert_equal_by_image(Carrier("bhnr").gather(table, KEPT, 7), lambda b, rows: dense[b, :, rows])


@pytest.mark.parametrize("shape", [(6, 4), (2, 6, 4), (1, 2, 6, 4)])
def test_a_table_without_prefix_tokens_follows_the_patches(shape):
    table = torch.randn(shape)
    dense = table.expand(2, 2, 6, 4)
    found = Carrier("bhnr").gather(table, KEPT, 7)
    assert_equal_by_image(found, lambda b, rows: dense[b, :, [row - 1 for row in rows[1:]]])


@pytest.mark.parametrize("shape", [(7, 7), (2, 7, 7), (2, 1, 7, 7)])
def test_a_mask_follows_along_queries_and_keys(shape):
    mask = torch.rand(shape) < 0.5
    dense = mask.expand(2, 2, 7, 7)
    found = Carrier("bhnn").gather(mask, KEPT, 7)
    assert_equal_by_image(found, lambda b, rows: dense[b][:, rows][:, :, rows])


def test_an_axis_that_broadcasts_is_left_alone():
    padding = torch.rand(2, 1, 1, 7)
    found = Carrier("bhnn").gather(padding, KEPT, 7)
    assert_equal_by_image(found, lambda b, rows: padding[b][:, :, rows].expand(2, -1, -1))


@pytest.mark.parametrize("length", [8, 4, 3])
def test_a_table_that_cannot_belong_to_the_tokens_is_refused(length):
    with pytest.raises(InputError, match=f"{length} entries for 7 tokens"):
        Carrier("bhnr").gather(torch.randn(length, 4), KEPT, 7)


def test_all_tables_of_a_tuple_follow():
    trace = ForwardTrace(1, 4, torch.device("cpu"))
    trace.steps[0] = Step(torch.tensor([[0, 1, 3]]), torch.tensor([[2]]), torch.tensor([[1]]))
    tables = tuple(torch.randn(1, 4, 2) for _ in range(3))
    found = gather_arguments(trace, 1, {"rope": tables}, {"rope": Rotary("bnr")})["rope"]
    assert len(found) == 3
    for table, left in zip(tables, found, strict=True):
        assert torch.equal(left, table[:, [0, 1, 3]])


def assert_equal_by_image(found, expected):
    found = found.expand(2, 2, -1, -1)
    for image, rows in enumerate(KEPT.tolist()):
        assert torch.equal(found[image], expected(image, rows))


def test_a_mean_can_be_as_long_as_its_tokens():
    # Of a token of 3 along one axis and one of size 2 of 6 along another: 15 / 3 long, not 4.123.
    tokens = torch.tensor([[[3.0, 0.0], [0.0, 6.0], [0.0, 2.0]]])
    one = torch.ones(1, 1)
    step = Step(torch.tensor([[0, 2]]), torch.tensor([[1]]), torch.tensor([[0]]), one)
    sizes = torch.tensor([[1.0, 2.0, 1.0]])
    torch.testing.assert_close(step.apply(tokens, sizes), torch.tensor([[[1.0, 4.0], [0.0, 2.0]]]))
    longer = replace(step, keep_length=True).apply(tokens, sizes)
    torch.testing.assert_close(longer[0, 0], torch.tensor([1.0, 4.0]) * 5 / 17**0.5)
    assert torch.equal(longer[0, 1], tokens[0, 2])
    opposite = torch.stack((tokens[:, 0], -tokens[:, 0], tokens[:, 2]), 1)
    assert replace(step, keep_length=True).apply(opposite, None)[0, 0].tolist() == [0, 0]
    of_units = replace(step, keep_length=True).by_row(2)
    assert of_units.keep_length
    assert of_units.kept.tolist() == [[0, 1, 4, 5]]
