"""What people do to a model after compress: it works, or an error says what to do instead."""

import copy
import importlib
import inspect

import pytest
import timm
import torch
from torch import nn

import transformers_models
from models import build, images
from repshift import InputError, Level, Merge, Plan, Redundancy, Shift, ToMe, compress
from repshift.runtime.attachment import Hook, ReplacedMethod

DROP = {0: 0.3, 2: 4}
MERGING = [Plan(DROP, reduction=ToMe()), Plan(DROP, Shift(), Merge())]
each_merging = pytest.mark.parametrize("plan", MERGING, ids=lambda plan: plan.method)
AVERAGING = ("ijepa", "beit", "clip", "dinov2", "videomae")


def weighted(model, photos, compression):
    """The mean of timm's tokens by their sizes, and the head on it."""
    features = model.forward_features(photos)
    sizes = compression.sizes[:, model.num_prefix_tokens :, None]
    mean = (features[:, model.num_prefix_tokens :] * sizes).sum(1) / sizes.sum(1)
    return model.head(model.fc_norm(mean))  # weighed already, which is seen


@each_merging
@torch.no_grad()
def test_a_head_of_ones_own_gets_the_mean_by_size(plan):
    model, photos = build("average pooling"), images()
    with compress(model, plan) as compression:
        model(photos)
        model.reset_classifier(5)
        nn.init.normal_(model.head.weight)
        torch.testing.assert_close(model(photos), weighted(model, photos, compression))
        model.head = nn.Linear(32, 3)
        torch.testing.assert_close(model(photos), weighted(model, photos, compression))


@each_merging
@torch.no_grad()
def test_what_takes_the_mean_away_is_an_error(plan):
    model, photos = build("average pooling"), images()
    with compress(model, plan):
        expected = model(photos)
        norm, model.fc_norm = model.fc_norm, nn.LayerNorm(32)
        with pytest.raises(InputError, match="again after a change of the head"):
            model(photos)
        model.fc_norm = norm
        assert torch.equal(model(photos), expected)
        model.global_pool = ""
        with pytest.raises(InputError, match="again after a change of the head"):
            model(photos)
        model.global_pool = "avg"
        assert torch.equal(model(photos), expected)


@pytest.mark.parametrize("family", AVERAGING)
@pytest.mark.parametrize("change", ["linear", "wrapped"])
@torch.no_grad()
def test_a_classifier_of_transformers_that_is_replaced(family, change):
    """As people fine-tune: another number of classes, or PEFT's modules_to_save."""

    class Saved(nn.Module):
        def __init__(self, original):
            super().__init__()
            self.original_module, self.active = original, copy.deepcopy(original)

        def forward(self, x):
            return self.active(x)

    row = transformers_models.AVERAGES[family]
    model = transformers_models.build(row)
    given = transformers_models.inputs(model)
    with compress(model, MERGING[0]) as compression:
        expected = model(**given).logits
        old = model.classifier
        fresh = nn.Linear(old.in_features, old.out_features)
        fresh.load_state_dict(old.state_dict())
        model.classifier = fresh if change == "linear" else Saved(old)
        if compression.spec.pooling.average is not old:  # a norm before it reads the mean
            torch.testing.assert_close(model(**given).logits, expected)
            return
        with pytest.raises(InputError, match=r"compress\(model, plan\) again"):
            model(**given)
    if change == "linear":
        with compress(model, MERGING[0]):
            torch.testing.assert_close(model(**given).logits, expected)


@each_merging
@torch.no_grad()
def test_features_of_an_earlier_batch_get_no_sizes_of_a_later_one(plan):
    model, photos = build("average pooling"), images()
    with compress(model, plan):
        first = model.forward_features(photos)
        expected = model.forward_head(first)
        torch.testing.assert_close(expected, model(photos))
        first = model.forward_features(photos)
        model.forward_features(images())
        with pytest.raises(InputError, match="mean of other tokens"):
            model.forward_head(first)
        model(photos)
        for _ in range(2):  # as often as one likes, also after the forward
            assert torch.equal(model.forward_head(first), expected)


@torch.no_grad()
def test_where_asking_would_wait_the_output_turns_nan(monkeypatch):
    """On a GPU nothing asks; here the question is put away."""
    monkeypatch.setattr("repshift.runtime.pooling.readable", lambda _: False)
    model, photos = build("average pooling"), images()
    with compress(model, MERGING[0]):
        assert model(photos).isfinite().all()
        first = model.forward_features(photos)
        model.forward_features(images())
        assert model.forward_head(first).isnan().all()


@pytest.mark.parametrize(
    ("family", "size"),
    # At 64 x 64 pixels the kept tokens would fill 8 x 8 places, each with half of its channels.
    [("dinov2 registers", (64, 64)), ("dinov2 registers", (40, 56)), ("siglip", (40, 56)),
     ("dinov3", (40, 56))],
)  # fmt: skip
@torch.no_grad()
def test_feature_maps_are_of_all_patches_each_in_its_place(family, size):
    model, photos = build(family, img_size=size), torch.randn(2, 3, *size)
    grid, prefix = (size[0] // 8, size[1] // 8), model.num_prefix_tokens
    with compress(model, Plan({})):
        dense = model.forward_intermediates(photos, intermediates_only=True)
    plan = Plan({0: grid[0] * grid[1] // 2, 2: 3})
    stream = []
    hooks = [
        block.register_forward_hook(lambda _, args, out: stream.append(out))
        for block in model.blocks
    ]
    with compress(model, plan) as compression:
        model(photos)
        expected = [
            compression.restore(out, block)[:, prefix:].transpose(1, 2).unflatten(2, grid)
            for block, out in enumerate(stream)
        ]
        for hook in hooks:
            hook.remove()
        last, maps = model.forward_intermediates(photos)
        assert last.shape[1] == compression.counts[-1]
        assert all(map(torch.equal, maps, expected))
        assert maps[0].shape == dense[0].shape == (2, 32, *grid)
        two = model.forward_intermediates(photos, [-1, 1], intermediates_only=True)
        assert all(map(torch.equal, two, [expected[1], expected[3]]))
        [first] = model.forward_intermediates(photos, [0], stop_early=True, intermediates_only=True)
        assert torch.equal(first, expected[0])
        # timm's eva lists no such method.
        if hasattr(model, "get_intermediate_layers"):
            pairs = model.get_intermediate_layers(photos, 2, True, return_prefix_tokens=prefix > 0)
            pairs = pairs if prefix else [(one, None) for one in pairs]
            assert all(map(torch.equal, [one for one, _ in pairs], expected[2:]))
        if prefix:
            model(photos)
            [row] = model.forward_intermediates(
                photos, [3], output_fmt="NLC", intermediates_only=True
            )
            with pytest.raises(InputError, match="without its . prefix tokens; put those in front"):
                compression.restore(row)
    assert "forward_intermediates" not in vars(model)


@torch.no_grad()
def test_feature_maps_of_an_adaptive_plan_are_refused():
    model = build("deit")
    plan = Plan({0: Level(0.2)}, Redundancy("keys"))
    with (
        compress(model, plan),
        pytest.raises(InputError, match="lie end to end between the blocks"),
    ):
        model.forward_intermediates(images())


@pytest.mark.parametrize("kind", ["its own", "timm's"])
@torch.no_grad()
def test_feature_maps_of_open_clip(kind):
    open_clip = pytest.importorskip("open_clip")
    tower = open_clip.transformer.VisionTransformer((40, 24), 8, 32, 4, 2, 2, output_dim=16).eval()
    if kind == "timm's":
        timm_model = importlib.import_module("open_clip.timm_model")
        tower = timm_model.TimmModel("vit_tiny_patch16_224", 16, pool="token").eval()
        tower.set_input_size(48)
    photos = torch.randn(2, 3, *((48, 48) if kind == "timm's" else (40, 24)))
    dense = tower.forward_intermediates(photos)
    with compress(tower, Plan({0: 3})) as compression:
        output = tower.forward_intermediates(photos, output_extra_tokens=True)
        maps = output["image_intermediates"]
        torch.testing.assert_close(output["image_features"], tower(photos))
        assert [one.shape for one in maps] == [one.shape for one in dense["image_intermediates"]]
        kept = compression.kept_after(0)[:, 1:, None] - 1
        assert torch.equal(
            maps[0].flatten(2).transpose(1, 2).take_along_dim(kept, 1),
            dense["image_intermediates"][0].flatten(2).transpose(1, 2).take_along_dim(kept, 1),
        )


@torch.no_grad()
def test_feature_extractors_of_torchvision():
    vit = pytest.importorskip("torchvision.models.vision_transformer")
    extraction = pytest.importorskip("torchvision.models.feature_extraction")
    model = vit.VisionTransformer(40, 8, 4, 2, 32, 64, num_classes=7).eval()
    photos, layer = torch.randn(2, 3, 40, 40), "encoder.layers.encoder_layer_3"
    before = extraction.create_feature_extractor(model, [layer])
    dense = before(photos)[layer]
    with compress(model, Plan({1: 0.3})) as compression:
        with pytest.raises(InputError, match="outside its block"):
            before(photos)
        with pytest.raises(InputError, match="detach"):
            extraction.create_feature_extractor(model, [layer])
        with pytest.raises(InputError):
            compress(before, Plan({1: 0.3}))
        model(photos)
        assert compression.counts[-1] == 1 + 18
    torch.testing.assert_close(before(photos)[layer], dense)


@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_refused_when_it_is_made():
    model = build("deit")
    with compress(model, Plan(DROP)), torch.no_grad():
        with pytest.raises(InputError, match=r"torch\.export"):
            torch.jit.trace(model, images(1))
        with pytest.raises(InputError, match=r"torch\.jit\.script"):
            torch.jit.script(model)


@pytest.mark.parametrize("method", ["shift(mlp, l2)", "tome", "redundancy(mlp) + merge"])
@pytest.mark.filterwarnings("ignore")
def test_functional_transforms(method):
    model, photos = build("deit", torch.float64), images(2, torch.float64)
    weights = dict(model.named_parameters())

    def loss(weights, photos):
        return torch.func.functional_call(model, weights, (photos,)).square().sum()

    with compress(model, Plan.from_method(method, DROP)):
        expected = torch.autograd.grad(loss(weights, photos), list(weights.values()))
        found = torch.func.grad(loss)(weights, photos)
        torch.testing.assert_close(tuple(found.values()), expected)
        each = torch.func.vmap(lambda photo: model(photo[None])[0])(photos)
        torch.testing.assert_close(each, model(photos))
        jacobian = torch.func.jacrev(model)(photos[:1])
        rows = [torch.autograd.grad(model(p := photos[:1].clone().requires_grad_())[0, k], p)[0]
                for k in range(2)]  # fmt: skip
        torch.testing.assert_close(jacobian[0, :2], torch.stack(rows))


@pytest.mark.parametrize(
    ("method", "drop"),
    [
        pytest.param("shift(mlp, l2)", {0: 0.3, 1: 0.25}, marks=pytest.mark.slow),
        ("shift(mlp, l2) + merge", {0: 0.3, 1: 4}),
        pytest.param("tome", {0: 0.3}, marks=pytest.mark.slow),
        pytest.param("tome", {0: 3, 1: 3}, marks=pytest.mark.slow),
    ],
)
def test_export_with_height_and_width_left_open(plain, method, drop):
    model = timm.create_model(
        "deit_tiny_patch16_224", img_size=(40, 56), patch_size=8, embed_dim=32, num_heads=2,
        depth=2, num_classes=7, dynamic_img_size=True,
    ).eval()  # fmt: skip
    nn.init.normal_(model.head.weight)
    height, width = (torch.export.Dim(name, min=3, max=9) for name in ("height", "width"))
    shapes = ({0: torch.export.Dim("batch", min=1, max=8), 2: 8 * height, 3: 8 * width},)
    plan = plain.Plan.from_method(method, drop)
    with plain.compress(model, plan), torch.no_grad():
        program = torch.export.export(model, (images(2),), dynamic_shapes=shapes).module()
        for size in ((40, 56), (64, 48), (24, 72)):
            for batch in (1, 3):
                photos = torch.randn(batch, 3, *size)
                torch.testing.assert_close(program(photos), model(photos))


@pytest.mark.parametrize("reduction", [None, ToMe(), Merge()], ids=str)
@torch.no_grad()
def test_a_copy_of_a_part_is_dense_and_small(reduction):
    model, tokens = build("deit"), torch.randn(2, 36, 32)
    dense = [copy.deepcopy(block)(tokens) for block in model.blocks]
    plan = Plan(DROP) if reduction is None else Plan(DROP, Shift(), reduction)
    with compress(model, plan):
        for block, expected in zip(model.blocks, dense, strict=True):
            twin = copy.deepcopy(block)
            assert torch.equal(twin(tokens), expected)
            assert twin.norm1.weight is not block.norm1.weight
            assert not held(twin, (Hook, ReplacedMethod))
        norm = copy.deepcopy(model.blocks[0].norm2)
        assert torch.equal(norm(tokens), model.blocks[0].norm2(tokens))
        assert not held(norm, (Hook, ReplacedMethod))
        blocks = copy.deepcopy(model.blocks)
        assert blocks(tokens).shape == tokens.shape
        photos = images()
        whole = copy.deepcopy(model)
        assert torch.equal(whole(photos), model(photos))
        assert held(whole, Hook)


def held(module, kinds):
    """What of those kinds the module and its parts hold in hooks and methods of their own."""
    values = [
        value
        for part in module.modules()
        for hooks in (part._forward_hooks, part._forward_pre_hooks, vars(part))
        for value in hooks.values()
    ]
    return [value for value in values if isinstance(value, kinds)]


@torch.no_grad()
def test_a_forward_that_others_replaced_before_and_after():
    """As accelerate does, which moves the arguments of a block to its device."""
    model, photos, calls = build("deit"), images(), []

    def replace(block, number):
        earlier = block.forward

        def forward(*args, **kwargs):
            calls.append(number)
            return earlier(*args, **kwargs)

        block.forward = forward
        return earlier

    with compress(model, Plan(DROP)):
        expected = model(photos)
        # Called without the hooks, a block runs all the same, and no other in its place.
        first = model.blocks[0].forward(tokens := torch.randn(2, 36, 32))
        assert first.shape == (2, 26, 32)
    assert torch.equal(first[:, :1], model.blocks[0](tokens)[:, :1])
    replace(model.blocks[0], 0)
    before = vars(model.blocks[0])["forward"]
    dense = model(photos)
    compression = compress(model, Plan(DROP))
    assert torch.equal(model(photos), expected)
    wrapped = replace(model.blocks[1], 1)
    calls.clear()
    assert torch.equal(model(photos), expected)
    assert calls == [0, 1]
    model.blocks[2].forward = type(model.blocks[2]).forward.__get__(model.blocks[2])
    with pytest.raises(InputError, match="None left the block before it"):
        model(photos)
    compression.detach()
    assert vars(model.blocks[0])["forward"] is before
    assert torch.equal(model(photos), dense)
    assert wrapped is not None


def test_a_method_that_was_replaced_keeps_its_signature():
    model = build("dinov2 registers")
    block, ways = model.blocks[0].forward, model.forward_intermediates
    expected = [inspect.signature(method) for method in (block, ways)]
    with compress(model, Plan(DROP)):
        found = [
            inspect.signature(m) for m in (model.blocks[0].forward, model.forward_intermediates)
        ]
        assert [list(one.parameters) for one in found] == [list(one.parameters) for one in expected]
