"""Towers that take all images in one stream: against the tower run on the kept units alone."""

import copy
import importlib
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from repshift import (
    ColumnAttention,
    InputError,
    KeyNorm,
    Level,
    Merge,
    Plan,
    Shift,
    ToMe,
    VidTLDR,
    adapt,
    compress,
)
from repshift.adapters import describe
from repshift.runtime.arguments import gather_arguments
from repshift.runtime.trace import ForwardTrace
from repshift.sequence.layout import Layout
from repshift.sequence.token_map import Step
from vision_towers import GRIDS, PACKED, packed_tower, pixels

FRAMES = [24, 48, 40, 40]
DROP = {0: 0.2, 2: 0.4}
PLAN = Plan(DROP, Shift("block"))


@pytest.fixture(params=PACKED)
def family(request):
    return request.param


class Weighed(TorchFunctionMode):
    """Adds log(size) of the keys of each call to the logits, by a mask."""

    def __init__(self, sizes):
        super().__init__()
        self.sizes = iter(sizes)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            kwargs = {**kwargs, "attn_mask": next(self.sizes).log()[None, None, None]}
        return func(*args, **(kwargs or {}))


def recorded(tower, x, grids):
    """What every block of the dense tower is given, and the dense output."""
    calls = []
    hooks = [
        block.register_forward_pre_hook(
            lambda _, args, kwargs: calls.append((args[0], kwargs)), with_kwargs=True
        )
        for block in tower.blocks
    ]
    output = tower(x, grid_thw=grids)
    for hook in hooks:
        hook.remove()
    return calls, output


def slow(tower, x, grids, drop, merge=False):
    """Frame by frame: the blocks run on the kept units, each window and frame a segment.

    Of every frame: which rows of the stream are left, and the stream after every block.
    """
    calls, _ = recorded(tower, x, grids)
    stream, start, done = calls[0][0], 0, []
    for t, rows, columns in grids.tolist():
        for _ in range(t):
            kept = torch.arange(start, start + rows * columns)
            start += rows * columns
            hidden, size, after = stream[kept], torch.ones(len(kept), dtype=stream.dtype), []
            for index, block in enumerate(tower.blocks):
                given = calls[index][1]
                ends = given["cu_seqlens"]
                lengths = [
                    ((kept >= first) & (kept < last)).sum() for first, last in pairwise(ends)
                ]
                lengths = torch.tensor([length for length in lengths if length])
                entry = hidden
                with Weighed(size.split(lengths.tolist())):
                    hidden = block(
                        entry,
                        cu_seqlens=F.pad(lengths.cumsum(0), (1, 0)),
                        position_embeddings=tuple(
                            part[kept] for part in given["position_embeddings"]
                        ),
                    )
                if index in drop:
                    scores = (hidden - entry).norm(dim=1).view(-1, 4).mean(1)
                    leaving = int(drop[index] * len(scores))
                    order = scores.argsort(descending=True)
                    stay = order[: len(scores) - leaving].sort().values
                    gone = order[len(scores) - leaving :]
                    rows_of = lambda units: (units[:, None] * 4 + torch.arange(4)).flatten()  # noqa: E731
                    if merge:
                        hidden, size = merged(hidden, size, stay, gone, rows_of)
                    else:
                        hidden, size = hidden[rows_of(stay)], size[rows_of(stay)]
                    kept = kept[rows_of(stay)]
                after.append(hidden)
            done.append((kept, after))
    return done


def merged(hidden, size, stay, gone, rows_of):
    """Every row of a unit that leaves joins that of the most similar unit, weighed by size."""
    units = hidden.view(-1, 4, hidden.shape[1]).mean(1)
    total = hidden[rows_of(stay)] * size[rows_of(stay)][:, None]
    sizes = size[rows_of(stay)].clone()
    for unit in gone.tolist():
        nearest = F.cosine_similarity(units[unit][None], units[stay]).argmax()
        for row in range(4):
            total[nearest * 4 + row] += hidden[unit * 4 + row] * size[unit * 4 + row]
            sizes[nearest * 4 + row] += size[unit * 4 + row]
    return total / sizes[:, None], sizes


def unpermuted(tower, grids):
    """The place that each unit of the stream has among the features."""
    if not hasattr(tower, "window_size"):
        return torch.arange(int(grids.prod(1).sum()) // 4)
    module = importlib.import_module(type(tower).__module__)
    return module.get_vision_window_index(grids, 2, tower.window_size, tower.patch_size)[0]


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_equals_the_tower_run_on_the_kept_units(family, attention):
    tower = packed_tower(family, attention)
    x = pixels(tower)
    frames = slow(tower, x, GRIDS, DROP)
    with compress(tower, PLAN) as compression:
        output = tower(x, grid_thw=GRIDS)
        kept, lengths = compression.kept, compression.lengths.tolist()
        restored = compression.restore(output.last_hidden_state)
    stream = torch.cat([after[-1] for _, after in frames])
    torch.testing.assert_close(output.last_hidden_state, stream)
    assert lengths == [len(rows) for rows, _ in frames] == [12, 24, 20, 20]

    units, places = torch.cat([rows[::4] // 4 for rows, _ in frames]), unpermuted(tower, GRIDS)
    features = places[units]
    torch.testing.assert_close(output.pooler_output[features], tower.merger(stream))
    for number, feature in enumerate(getattr(output, "deepstack_features", None) or []):
        # After block 0 more are left than in the end; those of the end are among them.
        whole = torch.cat([after[number] for _, after in frames])
        left = tower.deepstack_merger_list[number](whole)
        assert feature.shape == (38, 48)
        if number >= 2:
            torch.testing.assert_close(feature[features], left)
        assert all((feature == row).all(1).any() for row in left[:4]) or number < 2
    # Frame by frame, where each kept patch belongs.
    starts = torch.tensor([0, 24, 72, 112])
    for frame, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        own = features[sum(lengths[:frame]) // 4 : sum(lengths[: frame + 1]) // 4]
        assert torch.equal((kept[frame, :length:4] + start) // 4, own)
        assert (kept[frame, length:] == -1).all()
        first = sum(lengths[:frame])
        rows = restored[start + kept[frame, :length]]
        assert torch.equal(rows, output.last_hidden_state[first : first + length])
    assert restored.shape == (152, 32)
    gone = torch.ones(38, dtype=torch.bool)
    gone[features] = False
    same = (output.pooler_output[gone][:, None] == output.pooler_output[~gone]).all(-1)
    assert same.any(1).all()  # those that left are restored from one that stayed


@torch.no_grad()
def test_deepstack_features_of_every_block(family):
    if family != "qwen3 vl":
        return
    tower = packed_tower(family)
    x = pixels(tower)
    frames = slow(tower, x, GRIDS, {0: 0.4})
    with compress(tower, Plan({0: 0.4}, Shift("block"))):
        output = tower(x, grid_thw=GRIDS)
    units = torch.cat([rows[::4] // 4 for rows, _ in frames])
    for number, merger in enumerate(tower.deepstack_merger_list):
        stream = torch.cat([after[number] for _, after in frames])
        torch.testing.assert_close(output.deepstack_features[number][units], merger(stream))


@torch.no_grad()
@pytest.mark.parametrize(
    "plan",
    [
        PLAN,
        Plan({1: 9, 2: 100}, KeyNorm()),
        Plan(DROP, ColumnAttention()),
        Plan(DROP, Shift(), Merge()),
        Plan({0: 0.3, 1: 0.3}, reduction=ToMe()),
        Plan(DROP, reduction=VidTLDR()),
        Plan({0: Level(0.2), 2: Level(0.3)}, Shift("block"), Merge()),
        Plan({0: Level(0.2), 2: 0.2}, Shift()),
    ],
    ids=lambda plan: plan.method,
)
def test_an_image_does_not_depend_on_its_neighbours(family, plan):
    tower = packed_tower(family)
    x = pixels(tower)
    with compress(tower, plan) as compression:
        together, kept = tower(x, grid_thw=GRIDS).pooler_output, compression.kept
        lengths = compression.lengths.tolist()
        assert sum(lengths) < 152
        frame = 0
        for image, (first, last) in enumerate([(0, 24), (24, 72), (72, 152)]):
            alone = tower(x[first:last], grid_thw=GRIDS[image : image + 1]).pooler_output
            torch.testing.assert_close(alone, together[first // 4 : last // 4])
            for row, length in zip(compression.kept, compression.lengths.tolist(), strict=True):
                assert length == lengths[frame]
                assert torch.equal(row[:length], kept[frame, :length])
                frame += 1


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("drop", [{}, {1: 0.0}, {1: 0.05}], ids=str)
def test_where_nothing_is_dropped_every_bit_is_the_same(family, attention, drop):
    tower = packed_tower(family, attention, torch.float32)
    x, before = pixels(tower), set(tower.state_dict())
    dense = tower(x, grid_thw=GRIDS)
    with compress(tower, Plan(drop, Shift("block"))) as compression:
        output = tower(x, GRIDS)
        assert compression.lengths.tolist() == FRAMES
        assert compression.counts == [38] * 4
        assert set(tower.state_dict()) == before
    for name in ("last_hidden_state", "pooler_output"):
        assert torch.equal(output[name], dense[name])
    for one, other in zip(
        output.get("deepstack_features", []), dense.get("deepstack_features", []), strict=True
    ):
        assert torch.equal(one, other)
    assert not any("forward" in vars(part) for part in tower.modules())


@torch.no_grad()
def test_merged_units_count_by_size_in_every_window(family):
    tower = packed_tower(family)
    x = pixels(tower)
    frames = slow(tower, x, GRIDS, DROP, merge=True)
    with compress(tower, Plan(DROP, Shift("block"), Merge())) as compression:
        output = tower(x, grid_thw=GRIDS)
        sizes = compression.sizes
    torch.testing.assert_close(output.last_hidden_state, torch.cat([r[-1] for _, r in frames]))
    assert sizes.sum(1).tolist() == FRAMES


@torch.no_grad()
def test_attention_that_is_not_seen_is_refused(family):
    tower = packed_tower(family, "eager")
    x = pixels(tower)
    with (
        compress(tower, Plan(DROP, Shift(), Merge())),
        pytest.raises(InputError, match="did not call scaled_dot_product_attention"),
    ):
        tower(x, grid_thw=GRIDS)
    with compress(tower, Plan(DROP, KeyNorm())), pytest.raises(InputError, match="0 times"):
        tower(x, grid_thw=GRIDS)
    with compress(tower, Plan(DROP, Shift(), Merge("plain"))):
        tower(x, grid_thw=GRIDS)


@torch.no_grad()
def test_a_map_is_of_the_frame_and_closed_between_windows():
    tower = packed_tower("qwen2.5 vl")
    x = pixels(tower)
    with compress(tower, Plan({0: 0.2}, ColumnAttention())) as compression:
        tower(x, grid_thw=GRIDS)
        found = compression.scores[0]
    (stream, given), *_ = recorded(tower, x, GRIDS)[0]
    block, position = tower.blocks[0], given["position_embeddings"]
    module = importlib.import_module(type(tower).__module__)
    query, key, _ = block.attn.qkv(block.norm1(stream)).view(152, 3, 2, -1).unbind(1)
    query, key = module.apply_rotary_pos_emb_vision(query, key, *position)
    logits = torch.einsum("qhd,khd->hqk", query, key) * query.shape[-1] ** -0.5
    window = torch.bucketize(torch.arange(152), given["cu_seqlens"], right=True)
    logits = logits.masked_fill(window[:, None] != window, -torch.inf)
    start = 0
    for frame, length in enumerate(FRAMES):
        rows = slice(start, start + length)
        expected = logits[:, rows, rows].softmax(-1).mean(0).mean(0)
        scale = found[frame, :length].mean() / expected.mean()
        torch.testing.assert_close(found[frame, :length].double(), expected * scale)
        start += length


@torch.no_grad()
def test_levels_are_found_for_packed_towers(family):
    tower = packed_tower(family)
    x = pixels(tower)
    calls = [{"hidden_states": x, "grid_thw": GRIDS}]
    plan = adapt(tower, Plan({0: 0.3, 1: 0.3}, Shift("block")), calls)
    assert all(isinstance(amount, Level) for amount in plan.drop.values())
    with compress(tower, plan) as compression:
        assert tower(**calls[0]).pooler_output.shape == (38, 48)
        assert len({n / m for n, m in zip(compression.lengths.tolist(), FRAMES, strict=True)}) > 1


@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (4, 6), (10, 4), (6, 14), (14, 6)])
def test_units_are_known_where_windows_put_them(rows, columns):
    tower = packed_tower("qwen2.5 vl")
    grids = torch.tensor([[1, rows, columns], [2, columns, rows]])
    index = unpermuted(tower, grids)
    layout, given = Layout.of_grids(grids, 4, 2), Layout.of_grids(grids, 4, 2, index)
    assert torch.equal(layout.places, given.places)
    rows = layout.segments.stream(layout.places + layout.segments.starts[:, None])[0]
    assert torch.equal(rows[::4] // 4, index)


def test_empty_windows_leave_and_the_longest_is_counted_anew():
    layout = Layout.of_grids(torch.tensor([[1, 2, 4], [1, 2, 6]]), 4, None)
    trace = ForwardTrace(2, 12, torch.device("cpu"), layout=layout)
    kept = torch.tensor([[4, 5, 6, 7, 8, 9], [0, 1, 2, 3, 8, 9]])
    gone = torch.tensor([[0, 1, 2, 3, 10, 11], [4, 5, 6, 7, 10, 11]])
    trace.steps[0] = Step(kept, gone, torch.zeros(2, 6, dtype=torch.long))
    trace.segments[0] = layout.segments.pack(torch.tensor([4, 6]))
    given = {
        "cu_seqlens": torch.tensor([0, 4, 8, 16, 20], dtype=torch.int32),
        "max_seqlen": 8,
        "position_embeddings": (torch.arange(20), torch.arange(20)),
    }
    carriers = describe(packed_tower("qwen2 vl")).carriers
    found = gather_arguments(trace, 1, given, carriers)
    assert found["cu_seqlens"].tolist() == [0, 4, 8, 10]
    assert found["cu_seqlens"].dtype == torch.int32
    assert found["max_seqlen"] == 4
    assert found["position_embeddings"][0].tolist() == [4, 5, 6, 7, 8, 9, 10, 11, 16, 17]


def test_gradients_are_those_without_checkpointing(family):
    tower = packed_tower(family)
    x = pixels(tower)
    found = []
    for checkpointed in (False, True):
        if checkpointed:
            for block in tower.blocks:
                block.gradient_checkpointing = True
                block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        tower.train().zero_grad()
        with compress(tower, PLAN):
            tower(x, grid_thw=GRIDS).pooler_output.square().sum().backward()
        found.append([p.grad.clone() for p in tower.parameters() if p.grad is not None])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@torch.no_grad()
def test_a_copy_has_a_compression_of_its_own(family):
    tower = packed_tower(family)
    x = pixels(tower)
    with compress(tower, PLAN):
        twin = copy.deepcopy(tower)
        expected = tower(x, grid_thw=GRIDS).pooler_output
    assert torch.equal(twin(x, grid_thw=GRIDS).pooler_output, expected)


def test_what_is_no_whole_call_is_refused():
    tower = packed_tower("qwen3 vl")
    x = pixels(tower)
    with compress(tower, PLAN):
        with pytest.raises(InputError, match="call the whole model with the grid"):
            tower.blocks[0](torch.randn(8, 32).double(), cu_seqlens=torch.tensor([0, 8]))
        with pytest.raises(InputError, match=r"must take its tokens \[T, C\]"):
            tower.blocks[0](torch.randn(1, 8, 32).double())
        with pytest.raises(InputError, match="have another number"):
            tower(
                x[:24],
                grid_thw=GRIDS,
                interp_indices=torch.zeros(24, 4, dtype=torch.long),
                interp_weights=torch.zeros(24, 4).double(),
            )
    tower.blocks[1].forward = lambda *_: None
    tower.blocks[1].__class__ = type("Other", (type(tower.blocks[1]),), {"forward": lambda *_: 0})
    with pytest.raises(InputError, match="not checked with one of its parts"):
        describe(tower)
