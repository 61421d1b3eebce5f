"""A model of one's own by EncoderSpec, and what is said when model, spec and plan do not fit."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from models import build, images
from repshift import (
    AttentionEntropy,
    AttentionMask,
    Carrier,
    ClassAttention,
    ColumnAttention,
    EncoderSpec,
    InputError,
    Merge,
    Plan,
    Prune,
    Shift,
    ToMe,
    VidTLDR,
    compress,
)


class Layer(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width))

    def forward(self, x):
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class Encoder(nn.Module):
    def __init__(self, layer=Layer):
        super().__init__()
        self.layers = nn.ModuleList(layer() for _ in range(3))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def spec_of(model, **changes):
    parts = {
        "blocks": list(model.layers),
        "norm2": [layer.norm2 for layer in model.layers],
        "prefix_tokens": 1,
    }
    return EncoderSpec(**{**parts, **changes})


def tokens(batch=2):
    return torch.randn(batch, 8, 16)


@torch.no_grad()
def test_a_model_of_ones_own_is_compressed_by_naming_its_parts():
    model, x = Encoder(), tokens()
    spec = EncoderSpec(
        blocks=list(model.layers), norm2=[layer.norm2 for layer in model.layers], prefix_tokens=1
    )
    with compress(model, Plan({0: 0.5}), spec) as compression:
        output = model(x)

    first, *others = model.layers
    y = first.norm1(x)
    middle = x + first.attention(y, y, y)[0]
    branch = first.mlp(first.norm2(middle))
    best = (branch - middle).norm(dim=-1)[:, 1:].topk(4).indices.sort().values + 1
    kept = torch.cat([torch.zeros(2, 1, dtype=torch.long), best], dim=1)
    assert torch.equal(compression.kept, kept)
    expected = (middle + branch)[torch.arange(2)[:, None], kept]
    for layer in others:
        expected = layer(expected)
    torch.testing.assert_close(output, expected)


@torch.no_grad()
def test_attaching_to_other_blocks_of_the_model_replaces_too():
    model, x = Encoder(), tokens()
    dense = model(x)
    compress(
        model, Plan({0: 0.5}, Shift("block")), EncoderSpec(list(model.layers[1:]), [None, None], 1)
    )
    with compress(model, Plan({}), spec_of(model)):
        assert torch.equal(model(x), dense)


@torch.no_grad()
def test_a_plan_may_be_its_name_its_schedule_or_a_dict_and_another_one_replaces_it():
    model, x = Encoder(), tokens()
    for given, left in (("0:0.5", 5), ({1: 2}, 6), (Plan({2: 3}), 5)):
        compression = compress(model, given, spec_of(model))
        assert (model(x).shape[1], compression.counts[-1]) == (left, left)
    deit = build("deit", depth=7)
    with compress(deit, "deit") as compression:
        deit(images())
    assert compression.plan == Plan.paper("deit")


class Held:
    def __init__(self, model):
        self.model = model


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, "deit"), "the model is a NoneType; pass a torch.nn.Module$"),
        (("vit", "deit"), "the model is a str; pass a torch.nn.Module$"),
        ((DataLoader([0]), "deit"), "the model is a DataLoader; pass a torch.nn.Module$"),
        ((Held(Encoder()), "deit"), "a Held; pass a torch.nn.Module, such as the one it holds as"),
        ((Encoder(), None), "the plan is None; pass a Plan, its name such as 'deit'"),
        ((Encoder(), "dait"), "unknown plan 'dait'"),
        ((Encoder(), "deit", "spec"), "the spec is 'spec'; expected an EncoderSpec or a ResNetSp"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_model_no_plan_and_no_spec_is_one_clear_line(arguments, message):
    with pytest.raises(InputError, match=message):
        compress(*arguments)


class Padding(Encoder):
    def forward(self, x):
        for layer in self.layers:
            y = layer(x)
            x = nn.functional.pad(y, (0, 0, 0, x.shape[1] - y.shape[1]))
        return x


class Idle(Encoder):
    def forward(self, x):
        return x


class EarlyExit(Encoder):
    def forward(self, x):
        return self.layers[1](self.layers[0](x))


class Skipping(Encoder):
    def forward(self, x):
        return self.layers[2](self.layers[0](x))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Padding, "8 tokens entered block 1, but 5 left the block before it"),
        (Skipping, "5 tokens entered block 2, but None left the block before it"),
        (Idle, "only 0 of 3 blocks ran"),
        (EarlyExit, "only 2 of 3 blocks ran"),
    ],
)
def test_a_forward_that_does_not_lose_tokens_as_planned_says_so(kind, message):
    model = kind()
    with (
        compress(model, Plan({0: 0.5}), spec_of(model)),
        pytest.raises(InputError, match=message),
    ):
        model(tokens())


def test_a_later_forward_that_leaves_the_blocks_out_says_so_too():
    model = Encoder()
    with compress(model, Plan({0: 0.5}), spec_of(model)):
        model(tokens())
        model.forward = lambda x: x
        with pytest.raises(InputError, match="only 0 of 3 blocks ran"):
            model(tokens())


class TupleLayer(Layer):
    def forward(self, x):
        return super().forward(x), None


class TupleEncoder(Encoder):
    def forward(self, x):
        for layer in self.layers:
            x, _ = layer(x)
        return x


class KeywordEncoder(Encoder):
    def forward(self, x):
        for layer in self.layers:
            x = layer(x=x)
        return x


class DictLayer(Layer):
    def forward(self, x):
        return {"tokens": super().forward(x)}


@pytest.mark.parametrize("model", [KeywordEncoder(), Encoder(DictLayer)], ids=["keyword", "dict"])
@pytest.mark.usefixtures("unchecked")
def test_blocks_that_do_not_take_and_return_tokens_are_refused(model):
    with (
        compress(model, Plan({0: 0.5}), spec_of(model)),
        pytest.raises(InputError, match="block 0"),
    ):
        model(tokens())


@torch.no_grad()
def test_blocks_may_return_a_tuple_that_starts_with_the_tokens():
    plain, x = Encoder(), tokens()
    model = TupleEncoder(TupleLayer)
    model.load_state_dict(plain.state_dict())
    with compress(plain, Plan({0: 0.5}), spec_of(plain)):
        expected = plain(x)
    with compress(model, Plan({0: 0.5}), spec_of(model)) as compression:
        assert torch.equal(model(x), expected)
    assert compression.counts == [5, 5, 5]


@pytest.mark.parametrize("site", ["mlp", "attention"])
def test_a_norm2_that_never_runs_is_named(site):
    model = Encoder()
    spec = spec_of(model, norm2=[nn.LayerNorm(16) for _ in model.layers])
    with (
        compress(model, Plan({0: 0.5}, Shift(site)), spec),
        pytest.raises(InputError, match="did not see the middle of block 0: its norm2"),
    ):
        model(tokens())


def test_the_results_of_no_forward_are_refused():
    model = Encoder()
    compression = compress(model, Plan({0: 0.5}), spec_of(model))
    for read in (
        lambda: compression.counts,
        lambda: compression.kept,
        lambda: compression.restore(tokens()),
    ):
        with pytest.raises(InputError, match="call the model first"):
            read()


def test_nan_is_reported_at_the_first_block_that_shows_it():
    model, x = Encoder(), tokens()
    with compress(model, Plan({0: 0.2, 2: 0.2}), spec_of(model)) as compression:
        model(x)
        with pytest.raises(InputError, match=r"block 0: the score shift\(mlp, l2\) is NaN"):
            model(x.index_fill(1, torch.tensor([3]), torch.nan))
        with pytest.raises(InputError, match="call the model first"):
            _ = compression.counts
        nn.init.constant_(model.layers[1].mlp[2].bias, torch.nan)
        with pytest.raises(InputError, match="block 2: the score"):
            model(x)


def test_a_count_that_leaves_nothing_is_refused_at_its_block():
    model = Encoder()
    with (
        compress(model, Plan({0: 0.5, 1: 4}), spec_of(model)),
        pytest.raises(InputError, match="drops 4 of the 4 patch tokens at block 1; at least one"),
    ):
        model(tokens())


@pytest.mark.parametrize(
    ("family", "plan", "message"),
    [
        ("deit", Plan({99: 0.2}), "drops at block 99; this model has 4 blocks, 0 to 3"),
        ("deit", Plan({4: 0.2}), "drops at block 4"),
        ("parallel scaling", Plan({0: 0.2}), "block 0 runs them side by side; use the site block"),
        ("parallel scaling", Plan({0: 0.2}, Shift("attention")), "use the site block"),
        ("siglip", Plan({0: 0.2}, ClassAttention()), "needs a class token and this model has none"),
        ("deit3 registers", Plan({0: 0.2}, ClassAttention()), "needs a class token"),
        ("parallel scaling", Plan({0: 3}, reduction=ToMe()), "does not add its MLP to the stream"),
        ("parallel things", Plan({0: 3}, reduction=ToMe()), "use merge or prune, which act after"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_and_leaves_the_model_as_it_was(family, plan, message):
    model, photos = build(family), images()
    with compress(model, Plan({0: 0.5}, Shift("block"))), torch.no_grad():
        expected = model(photos)
        with pytest.raises(InputError, match=message):
            compress(model, plan)
        assert torch.equal(model(photos), expected)


@pytest.mark.parametrize("family", ["parallel things", "differential"])
def test_attention_that_runs_twice_in_a_block_has_no_one_map(family):
    model, photos = build(family), images()
    with torch.no_grad():
        dense = model(photos)
        with (
            compress(model, Plan({1: 0.2}, ColumnAttention())),
            pytest.raises(
                InputError, match="reads the attention of block 1, which called .* 2 times"
            ),
        ):
            model(photos)
        assert torch.equal(model(photos), dense)


class HandmadeAttention(Layer):
    def forward(self, x):
        y = self.norm1(x)
        x = x + (y @ y.transpose(1, 2)).softmax(-1) @ y
        return x + self.mlp(self.norm2(x))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan({0: 0.2}, ColumnAttention()), "called scaled_dot_product_attention 0 times"),
        (Plan({0: 0.2}, reduction=Merge()), 'merge weighs the keys of block 1.*attention="plain"'),
    ],
)
def test_attention_of_ones_own_that_cannot_be_watched_is_refused(plan, message):
    model = Encoder(HandmadeAttention)
    with compress(model, plan, spec_of(model)), pytest.raises(InputError, match=message):
        model(tokens())
    with compress(model, Plan({0: 0.2}, reduction=Merge("plain")), spec_of(model)) as compression:
        model(tokens())
    assert compression.counts == [7, 7, 7]


class AddsBoth(Layer):
    def forward(self, x):
        y = self.norm1(x)
        x += self.attention(y, y, y, need_weights=False)[0]
        x += self.mlp(self.norm2(x))
        return x


class AddsLast(Layer):
    def forward(self, x):
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x += self.mlp(self.norm2(x))
        return x


NORM1, IN_PLACE = "it is the norm before attention, or attention is added", "block 0 changes its"


@torch.no_grad()
@pytest.mark.parametrize(
    ("layer", "score", "message"),
    [
        (AddsBoth, Shift(), NORM1),
        (AddsBoth, Shift("block"), IN_PLACE),
        (AddsLast, Shift(), IN_PLACE),
    ],
)
def test_a_stream_that_is_overwritten_before_it_is_scored_is_refused(layer, score, message):
    model = Encoder(layer)
    with (
        compress(model, Plan({0: 0.5}, score), spec_of(model)),
        pytest.raises(InputError, match=message),
    ):
        model(tokens())


@torch.no_grad()
def test_a_block_that_adds_in_place_is_scored_where_that_overwrites_nothing():
    found, x = [], tokens()
    for layer in (Layer, AddsLast):
        torch.manual_seed(0)
        model = Encoder(layer)
        with compress(model, Plan({0: 0.5}, Shift("block")), spec_of(model)):
            found.append(model(x.clone()))
    assert torch.equal(*found)


@torch.no_grad()
@pytest.mark.parametrize("plan", [Plan({0: 0.5}), Plan({0: 3}, reduction=ToMe())])
def test_the_first_norm_in_the_place_of_the_second_is_refused(plan):
    model = Encoder()
    parts = {name: [getattr(layer, of) for layer in model.layers]
             for name, of in (("norm2", "norm1"), ("mlp", "mlp"))}  # fmt: skip
    with compress(model, plan, spec_of(model, **parts)), pytest.raises(InputError, match=NORM1):
        model(tokens())


class Masked(Layer):
    def forward(self, x, turn, mask):
        heads = self.norm1(x).unflatten(-1, (2, 8)).transpose(1, 2)
        turned = heads * (turn if turn.ndim == 2 else turn[:, None])
        seen = mask[:, None, None] if mask.ndim == 2 else mask
        y = nn.functional.scaled_dot_product_attention(turned, turned, heads, attn_mask=seen)
        x = x + y.transpose(1, 2).flatten(2)
        return x + self.mlp(self.norm2(x))


class MaskedEncoder(Encoder):
    def forward(self, x, turn, mask):
        for layer in self.layers:
            x = layer(x, turn, mask)
        return x


@torch.no_grad()
@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("axes", ["bn", "bhnn"])
def test_carriers_with_fewer_axes(axes, additive):
    """A table of all images, and a mask of the keys alone, which tells the padding of each."""
    model, x, turn = MaskedEncoder(Masked), tokens(), torch.randn(8, 8)
    mask = torch.arange(8) < torch.tensor([[8], [6]])
    given = torch.zeros(2, 8).masked_fill(~mask, -torch.inf) if additive else mask
    given = given if axes == "bn" else given[:, None, None]
    carriers = {"turn": Carrier("nr"), "mask": AttentionMask(axes)}
    with compress(model, Plan({0: 0.5}), spec_of(model, carriers=carriers)) as compression:
        output, kept = model(x, turn, given), compression.kept
        own = [number for number in kept[1].tolist() if number < 6]
        for row, count in enumerate((8, 6)):
            alone = model(x[row : row + 1, :count], turn[:count], mask[row : row + 1, :count])
            width = alone.shape[1]
            torch.testing.assert_close(output[row : row + 1, :width], alone)
        assert own == compression.kept[0].tolist()


class Causal(Layer):
    def forward(self, x, sees=None):
        heads = self.norm1(x).unflatten(-1, (2, 8)).transpose(1, 2)
        y = nn.functional.scaled_dot_product_attention(
            heads, heads, heads, attn_mask=sees, is_causal=sees is None
        )
        x = x + y.transpose(1, 2).flatten(2)
        return x + self.mlp(self.norm2(x))


class Projecting(Layer):
    def forward(self, x, sees=None):
        y, count = self.norm1(x), x.shape[1]
        later = ~torch.ones(count, count).tril().bool() if sees is None else ~sees[0, 0]
        y = self.attention(y, y, y, attn_mask=later, need_weights=False, is_causal=sees is None)
        x = x + y[0]
        return x + self.mlp(self.norm2(x))


@torch.no_grad()
@pytest.mark.parametrize("layer", [Causal, Projecting])
@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize(
    ("reduction", "score"),
    [
        (ToMe("plain"), Shift()),
        (VidTLDR("plain"), Shift()),
        (VidTLDR("plain"), AttentionEntropy()),
        (Merge("plain"), Shift()),
        (Prune(), Shift()),
    ],
)
def test_causal_attention_sees_what_stood_before(layer, class_token, reduction, score):
    """A matching puts tokens in another order, which is-causal would take for theirs."""
    model, x = Encoder(layer), tokens(1)
    spec = spec_of(model, mlp=[layer.mlp for layer in model.layers], class_token=class_token)
    after = []
    with compress(model, Plan({0: 2}, score, reduction), spec) as compression:
        handle = model.layers[0].register_forward_hook(lambda *_: after.append(_[-1]))
        output, kept = model(x), compression.kept[0]
        handle.remove()
    sees = (kept[:, None] >= kept)[None, None]
    expected = after[0]
    for layer in model.layers[1:]:
        expected = layer(expected, sees)
    torch.testing.assert_close(output, expected)


class PostNorm(Layer):
    def forward(self, x):
        x = self.norm1(x + self.attention(x, x, x, need_weights=False)[0])
        return self.norm2(x + self.mlp(x))


@pytest.mark.parametrize(
    ("norm", "score"),
    [("norm1", Shift()), ("norm2", Shift()), ("norm2", Shift("attention"))],
)
@pytest.mark.parametrize("layer", [PostNorm, nn.TransformerEncoderLayer])
def test_the_norms_of_post_norm_blocks_are_refused_as_norm2(norm, score, layer):
    own = layer is PostNorm
    model = Encoder(layer if own else lambda: layer(16, 2, 32, 0.0, batch_first=True))
    spec = spec_of(model, norm2=[getattr(block, norm) for block in model.layers])
    message = "block 0 is post-norm: .* name the first module of the MLP as norm2"
    with compress(model, Plan({0: 0.5}, score), spec), pytest.raises(InputError, match=message):
        model(tokens())


@torch.no_grad()
def test_the_mlp_of_a_post_norm_block_reads_its_middle():
    model, x = Encoder(PostNorm), tokens()
    spec = spec_of(model, norm2=[layer.mlp[0] for layer in model.layers])
    with compress(model, Plan({0: 0.5}), spec) as compression:
        model(x)
    first = model.layers[0]
    middle = first.norm1(x + first.attention(x, x, x)[0])
    exit = first.norm2(middle + first.mlp(middle))
    expected = (exit - 2 * middle).norm(dim=-1)[:, 1:]
    torch.testing.assert_close(compression.scores[0][:, 1:], expected)


@torch.no_grad()
@pytest.mark.parametrize(
    "changes", [{"prefix_tokens": 500}, {"prefix_tokens": 8}, {"suffix_tokens": 9},
                {"inner_tokens": [8]}],
)  # fmt: skip
def test_a_spec_of_more_tokens_than_there_are_is_refused_at_the_first_forward(changes):
    model = Encoder()
    message = "8 tokens entered the first block, too few for a spec with prefix_tokens="
    with (
        compress(model, Plan({0: 0.5}), spec_of(model, **changes)),
        pytest.raises(InputError, match=message),
    ):
        model(tokens())
    with compress(model, Plan({0: 0.5}), spec_of(model, prefix_tokens=7)) as compression:
        model(tokens())
    assert compression.counts == [8] * 3


@torch.no_grad()
@pytest.mark.parametrize("block", [3, 99, -1, 1.0, "0", True])
@pytest.mark.usefixtures("unchecked")
def test_a_block_that_there_is_not_is_refused(block):
    model = Encoder()
    compression = compress(model, Plan({0: 0.5}), spec_of(model))
    kept = model(tokens())
    for ask in (
        compression.kept_after,
        compression.sizes_after,
        compression.lengths_after,
        lambda block: compression.restore(kept, block),
    ):
        with pytest.raises(InputError, match=rf"block is {block!r}; expected .* from 0 to 2"):
            ask(block)
    with pytest.raises(InputError, match=r"restore takes features \[B, K, C\]; got str"):
        compression.restore("features")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm2": ["norm2"] * 3}, "the norm2 of a spec is a list with a module for each .* a str"),
        ({"blocks": nn.Identity()}, "the blocks of a spec is a list .* got a Identity"),
        ({"mlp": (layer for layer in [])}, "the mlp of a spec is a list .* got a generator"),
        ({"prefix_tokens": 1.0}, "prefix_tokens is 1.0; expected a whole number"),
        ({"inner_tokens": [-1]}, "inner_tokens is -1; expected a whole number from 0 up"),
        ({"class_token": "cls"}, "class_token is 'cls'; expected a bool"),
        ({"carriers": ["rope"]}, "carriers is \\['rope'\\]; expected a Mapping"),
        ({"blocks": [], "norm2": []}, "got 0 blocks and 0 norm2"),
        ({"norm2": [None]}, "got 3 blocks and 1 norm2"),
        ({"mlp": [None]}, "got 1 for 3 blocks"),
        ({"prefix_tokens": -1}, "prefix_tokens is -1; expected a whole number from 0 up"),
        ({"prefix_tokens": 0, "class_token": True}, "prefix_tokens is 0; expected 1 or more"),
        ({"unit": 2, "prefix_tokens": 1}, "in units of 2; expected 1 or more, and more only in a"),
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        spec_of(Encoder(), **changes)


@pytest.mark.parametrize("part", ["carriers", "readers"])
def test_what_is_no_carrier_is_refused(plain, part):
    given = {"mask": "bhnn"}
    spec = {part: given if part == "carriers" else [(nn.Identity(), given)]}
    message = "mask is carried by 'bhnn'; expected a Carrier, such as"
    with pytest.raises(plain.InputError, match=message):
        plain.EncoderSpec([nn.Identity()], [None], 0, **spec)


@pytest.mark.parametrize("axes", ["bhqk", "b n", "bN", "bh"])
def test_a_carrier_whose_axes_nobody_knows_is_refused(axes):
    with pytest.raises(InputError, match=rf"has the axes '{axes}'; write one letter"):
        Carrier(axes)


def test_a_block_that_runs_twice_is_refused():
    model = Encoder()
    model.layers[2] = model.layers[0]
    with pytest.raises(InputError, match="names a block twice"):
        spec_of(model)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan({0: 3}, reduction=ToMe()), r"does not name the MLPs; pass EncoderSpec\(..., mlp="),
        (Plan({0: 0.2}, ClassAttention()), "the spec must say class_token=True"),
    ],
)
def test_what_a_spec_leaves_out_is_named(plan, message):
    model = Encoder()
    with pytest.raises(InputError, match=message):
        compress(model, plan, spec_of(model))
    said = spec_of(model, mlp=[layer.mlp for layer in model.layers], class_token=True)
    with compress(model, plan, said) as compression:
        model(tokens())
    assert compression.counts[0] < 8


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: nn.Sequential(nn.ReLU(), model)])
def test_the_part_that_can_be_compressed_is_named(wrap):
    wrapped = wrap(build("deit"))
    with pytest.raises(InputError, match=r"a VisionTransformer: compress model\.(module|1)\."):
        compress(wrapped, "0:0.2")


def test_a_model_that_is_not_known_is_refused_with_the_way_out():
    with pytest.raises(InputError, match=r"Encoder is not a model repshift knows.*EncoderSpec\("):
        compress(Encoder(), Plan({0: 0.5}))
