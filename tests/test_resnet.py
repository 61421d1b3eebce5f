"""ResNets lose rows and columns: the promises, the readings of the shift, what is refused."""

import pickle
from copy import deepcopy

import pytest
import timm
import torch
import torchvision
from torch import nn

from repshift import (
    Border,
    ClassAttention,
    InputError,
    MeanDistance,
    Merge,
    PerRowAndColumn,
    Plan,
    Prune,
    Random,
    ResNetSpec,
    Reverse,
    RowsAndColumns,
    Shift,
    Stage,
    StreamNorm,
    compress,
)
from repshift.adapters import describe
from repshift.measure.flops import count_flops
from resnet_models import (
    FAMILIES,
    GRIDS,
    LEFT,
    backbone,
    build,
    features_only,
    images,
    plan_for,
)

each_family = pytest.mark.parametrize("family", FAMILIES)
each_reduction = pytest.mark.parametrize(
    "reduction", [RowsAndColumns(), PerRowAndColumn()], ids=str
)
READINGS = [
    Shift("block"),
    Shift("block", "cosine"),
    Shift("branch"),
    Shift("branch", definition="update"),
    Shift("stage"),
    Shift("stage", "l1"),
]
SCORES = [*READINGS, StreamNorm(), MeanDistance(), Border(), Random(), Reverse(Shift("block"))]


def trace(model):
    return {
        (path, key): dict(value) if isinstance(value, dict) else value
        for path, module in model.named_modules()
        for key, value in vars(module).items()
    }


@torch.no_grad()
def run(model, photos, plan, spec=None):
    with compress(model, plan, spec) as compression:
        return model(photos), compression


@each_family
def test_a_plan_that_drops_nothing_leaves_the_output_bit_equal(family):
    model, photos = build(family), images()
    with torch.no_grad():
        dense = model(photos)
    for drop in ({}, {0: 0, 1: 0.0}, {2: 0.1}):
        output, compression = run(model, photos, plan_for(drop=drop))
        assert torch.equal(output, dense)
        assert compression.grids == GRIDS
    assert torch.equal(run(model, photos, Plan({}))[0], dense)


@each_family
@each_reduction
def test_the_planned_lines_leave_and_the_names_of_the_weights_stay(family, reduction):
    model, photos = build(family), images()
    before, weights = trace(model), dict(model.state_dict(keep_vars=True))
    with torch.no_grad():
        dense = model(photos)
    with compress(model, plan_for(reduction)) as compression, torch.no_grad():
        output = model(photos)
        assert dict(model.state_dict(keep_vars=True)) == weights
    assert compression.grids == LEFT
    assert compression.counts == [130, 35, 6, 2]
    assert not torch.equal(output, dense)
    assert trace(model) == before
    for stage, (rows, columns) in enumerate(LEFT):
        kept = compression.kept_after(stage)
        assert kept.shape == (3, rows, columns)
        assert len(kept[0].unique()) == rows * columns
        assert kept.max() < GRIDS[stage][0] * GRIDS[stage][1]


@each_reduction
@pytest.mark.parametrize("score", SCORES, ids=str)
def test_what_an_image_keeps_does_not_depend_on_its_neighbours(reduction, score):
    model, photos = build("timm squeeze, excite", torch.float64), images(4, torch.float64)
    together, compression = run(model, photos, plan_for(reduction, score=score))
    for image in range(4):
        alone, single = run(model, photos[image : image + 1], plan_for(reduction, score=score))
        assert torch.equal(single.kept_after(0)[0], compression.kept_after(0)[image])
        torch.testing.assert_close(alone[0], together[image])


@pytest.mark.parametrize("family", ["torchvision bottleneck", "timm basic"])
@each_reduction
def test_channels_last_stays_and_changes_nothing_else(family, reduction):
    model, photos = build(family, torch.float64), images(dtype=torch.float64)
    plain, _ = run(model, photos, plan_for(reduction))
    model = model.to(memory_format=torch.channels_last)
    formats = []
    handle = model.layer1.register_forward_hook(
        lambda *call: formats.append(call[2].is_contiguous(memory_format=torch.channels_last))
    )
    found, _ = run(model, photos.contiguous(memory_format=torch.channels_last), plan_for(reduction))
    handle.remove()
    assert formats == [True]
    torch.testing.assert_close(found, plain)


def by_hand(model, photos, choose, reduction):
    """torchvision's forward written out; loops take rows and columns from the first stage."""
    x = model.maxpool(model.relu(model.bn1(model.conv1(photos))))
    entry = x
    for block in model.layer1:
        shortcut = x if block.downsample is None else block.downsample(x)
        branch = block.bn1(block.conv1(x))
        if isinstance(block, torchvision.models.resnet.Bottleneck):
            branch = block.bn3(block.conv3(block.relu(block.bn2(block.conv2(block.relu(branch))))))
        else:
            branch = block.bn2(block.conv2(block.relu(branch)))
        branch = branch.clone()
        x = torch.relu(branch + shortcut)
    scores = choose(entry, shortcut, branch, x)
    left = []
    for image, score in zip(x, scores, strict=True):
        if reduction == RowsAndColumns():
            rows, columns = (
                sorted(score.mean(1 - axis).argsort(stable=True)[leave:].tolist())
                for axis, leave in ((0, 5), (1, 4))
            )
            left.append(image[:, rows][:, :, columns])
        else:
            across = [sorted(row.argsort(stable=True)[4:].tolist()) for row in score]
            packed = torch.stack([image[:, i, row] for i, row in enumerate(across)], dim=1)
            score = torch.stack([score[i, row] for i, row in enumerate(across)])
            down = [sorted(column.argsort(stable=True)[5:].tolist()) for column in score.T]
            left.append(torch.stack([packed[:, row, j] for j, row in enumerate(down)], dim=2))
    x = model.layer4(model.layer3(model.layer2(torch.stack(left))))
    return model.fc(x.mean((2, 3)))


def norm(x):
    return x.norm(dim=1)


ORACLES = {
    Shift("block"): lambda first, entry, branch, exit: norm(exit - entry),
    Shift("branch"): lambda first, entry, branch, exit: norm(branch - entry),
    Shift("branch", definition="update"): lambda first, entry, branch, exit: norm(branch),
    Shift("branch", "l1", "update"): lambda first, entry, branch, exit: branch.abs().sum(1),
    Shift("stage"): lambda first, entry, branch, exit: (norm(exit) - norm(first)).abs(),
    StreamNorm(): lambda first, entry, branch, exit: norm(exit),
}


@pytest.mark.parametrize("score", ORACLES, ids=str)
@pytest.mark.parametrize("family", ["torchvision basic", "torchvision bottleneck"])
@each_reduction
def test_every_reading_equals_the_forward_written_out(score, family, reduction):
    model, photos = build(family, torch.float64), images(dtype=torch.float64)
    found, _ = run(model, photos, plan_for(reduction, {0: 0.3}, score))
    with torch.no_grad():
        expected = by_hand(model, photos, ORACLES[score], reduction)
    torch.testing.assert_close(found, expected)


def test_the_entry_of_a_stage_is_averaged_down_to_its_grid():
    model, photos = build("torchvision basic", torch.float64), images(dtype=torch.float64)
    seen = []
    handles = [
        model.layer2.register_forward_pre_hook(lambda _, args: seen.append(args[0])),
        model.layer2.register_forward_hook(lambda *call: seen.append(call[2])),
    ]
    with torch.no_grad():
        model(photos)
    for handle in handles:
        handle.remove()
    before, after = seen
    scores = norm(after) - norm(nn.functional.adaptive_avg_pool2d(before, (9, 7)))
    expected = scores.abs().mean(2).argsort(dim=1, descending=True)[:, :7].sort().values
    _, compression = run(model, photos, plan_for(drop={1: 2}, score=Shift("stage")))
    assert torch.equal(compression.kept_after(1)[:, :, 0] // 7, expected)


@each_reduction
def test_restore_puts_the_features_of_every_stage_back_on_the_full_grid(reduction):
    for model in (features_only(), backbone()):
        photos = images()
        with compress(model, plan_for(reduction)) as compression, torch.no_grad():
            features = model(photos)
        features = list(features.values()) if isinstance(features, dict) else features[1:]
        assert [tuple(feature.shape[2:]) for feature in features] == LEFT
        for stage, (feature, grid) in enumerate(zip(features, GRIDS, strict=True)):
            full = compression.restore(feature, stage)
            assert full.shape == (3, feature.shape[1], *grid)
            at = compression.kept_after(stage).flatten(1)[:, None].expand(-1, full.shape[1], -1)
            assert torch.equal(full.flatten(2).gather(2, at), feature.flatten(2))
        assert torch.equal(compression.restore(feature), full)
        with pytest.raises(InputError, match=r"expected \[3, C, 2, 1\], what stage 3 gave"):
            compression.restore(features[0])


@pytest.mark.parametrize("stage", [4, -1, 1.0])
@pytest.mark.usefixtures("unchecked")
def test_a_stage_that_there_is_not_is_refused(stage):
    output, compression = run(build("timm basic"), images(), plan_for())
    for ask in (compression.kept_after, lambda stage: compression.restore(output, stage)):
        with pytest.raises(InputError, match=rf"stage is {stage}; expected .* from 0 to 3"):
            ask(stage)


def test_some_features_only():
    model = features_only(out_indices=(1, 2))
    output, compression = run(model, images(), plan_for(drop={0: 2}))
    assert compression.grids == [(16, 12), (8, 6)]
    assert [feature.shape[2:] for feature in output] == [(16, 12), (8, 6)]


def test_dilated_stages_keep_their_grid():
    model = features_only(output_stride=8)
    _, compression = run(model, images(), plan_for(drop={0: 4, 2: 1}))
    assert compression.grids == [(14, 10), (7, 5), (6, 4), (6, 4)]
    assert compression.restore(torch.zeros(3, 1, 6, 4)).shape == (3, 1, 9, 7)


@pytest.mark.parametrize(
    ("name", "dense", "left"), [("resnet34", 3.66, 2.46), ("resnet50", 4.09, 2.70)]
)
@each_reduction
@pytest.mark.parametrize("make", [timm.create_model, torchvision.models.get_model])
def test_the_paper_s_plan_has_the_paper_s_flops(name, dense, left, reduction, make):
    with torch.device("meta"):
        model, photo = make(name).eval(), torch.zeros(1, 3, 224, 224)
    flops, _ = count_flops(lambda: model(photo))
    assert flops / 1e9 == pytest.approx(dense, rel=0.01)
    plan = Plan(Plan.paper("resnet").drop, reduction=reduction)
    with compress(model, plan) as compression:
        flops, _ = count_flops(lambda: model(photo))
    assert flops / 1e9 == pytest.approx(left, rel=0.01)
    assert compression.grids == [(48, 48), (20, 20), (10, 10), (5, 5)]


def test_the_paper_s_plan_scales_with_the_image():
    for side, grids in ((448, [96, 40, 20, 10]), (288, [62, 26, 13, 7]), (64, [14, 6, 3, 2])):
        with torch.device("meta"):
            model = torchvision.models.resnet18().eval()
            _, compression = run(model, torch.zeros(1, 3, side, side), Plan.paper("resnet"))
        assert compression.grids == [(n, n) for n in grids]


def test_lines_take_the_shift_over_the_last_block_unless_told_otherwise():
    plan = Plan.paper("resnet")
    assert (plan.score, plan.reduction) == (Shift("block"), RowsAndColumns())
    assert plan.method == "shift(block, l2) + rows-and-columns"
    assert Plan.from_method("per-row-and-column", {0: 2}) == Plan(
        {0: 2}, Shift("block"), PerRowAndColumn()
    )
    assert Plan.from_json(plan.to_json()) == plan
    assert Plan({0: 2}).score == Shift()


def test_border_lines_are_a_crop():
    model, photos = build("torchvision basic"), images()
    for reduction in (RowsAndColumns(), PerRowAndColumn()):
        _, compression = run(model, photos, plan_for(reduction, {0: 4}, Border()))
        crop = torch.arange(18 * 14).view(18, 14)[2:-2, 2:-2]
        assert torch.equal(compression.kept_after(0), crop.expand(3, -1, -1))


def test_random_lines_are_the_same_for_every_image_and_differ_between_seeds():
    model, photos = build("torchvision basic"), images()
    kept = [
        run(model, photos, plan_for(drop={0: 4}, score=Random(seed)))[1].kept_after(0)
        for seed in range(2)
    ]
    assert all((one == one[:1]).all() for one in kept)
    assert not torch.equal(*kept)


@pytest.mark.parametrize("score", SCORES, ids=str)
def test_gradients_reach_every_weight_and_detach_from_the_choice(score):
    model = build("torchvision basic").train()
    with compress(model, plan_for(score=score)):
        model(images()).sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize("score", [Shift("block"), Shift("branch")], ids=str)
def test_gradient_checkpointing_gives_the_same_gradients(score):
    model, photos = build("timm bottleneck"), images()
    gradients = []
    for checkpointing in (False, True):
        again = deepcopy(model)
        again.set_grad_checkpointing(checkpointing)
        with compress(again, plan_for(score=score)) as compression:
            again(photos).square().sum().backward()
            assert compression.grids == LEFT
        gradients.append([weight.grad for weight in again.parameters()])
    for plain, taped in zip(*gradients, strict=True):
        torch.testing.assert_close(taped, plain)


def test_checkpointing_hides_the_entry_of_a_stage_and_says_so():
    model = build("timm bottleneck")
    model.set_grad_checkpointing()
    with (
        compress(model, plan_for(score=Shift("stage"))),
        pytest.raises(InputError, match=r"did not see the stage entry.*use shift\(block\) there"),
    ):
        model(images()).sum().backward()


def test_attaching_twice_replaces_and_copies_work():
    model, photos = build("timm basic"), images()
    alone, _ = run(model, photos, plan_for())
    before = trace(model)
    first = compress(model, plan_for(drop={0: 0.5}))
    second = compress(model, plan_for())
    with torch.no_grad():
        for again in (model, deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(again(photos), alone)
    first.detach()
    second.detach()
    assert trace(model) == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    model, photos = build("torchvision basic", dtype), images(dtype=dtype)
    output, compression = run(model, photos, plan_for())
    assert output.dtype == dtype
    assert compression.grids == LEFT


@pytest.mark.parametrize(
    ("reduction", "channels_last"), [(RowsAndColumns(), False), (PerRowAndColumn(), True)], ids=str
)
def test_compile_in_one_graph(reduction, channels_last, plain):
    model, photos = build("torchvision basic"), images()
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        photos = photos.contiguous(memory_format=torch.channels_last)
    plan = plain.Plan(
        {0: 0.3, 2: 1}, reduction=plain.Plan.from_method(str(reduction), {}).reduction
    )
    with plain.compress(model, plan), torch.no_grad():
        expected = model(photos)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(photos), expected)


@each_reduction
def test_export_with_a_dynamic_batch(reduction, plain):
    model = build("torchvision basic")
    plan = plain.Plan(
        {0: 0.3, 2: 1}, reduction=plain.Plan.from_method(str(reduction), {}).reduction
    )
    with plain.compress(model, plan), torch.no_grad():
        shapes = ({0: torch.export.Dim("batch")},)
        program = torch.export.export(model, (images(2),), dynamic_shapes=shapes).module()
        for batch in (1, 3):
            photos = images(batch)
            torch.testing.assert_close(program(photos), model(photos))


def test_nan_is_an_error_that_names_the_stage():
    model, photos = build("torchvision basic"), images()
    photos[1, 0, 5, 5] = torch.nan
    with pytest.raises(InputError, match=r"stage 0: the score shift\(block, l2\) is NaN"):
        run(model, photos, plan_for())


def test_a_plan_of_tokens_is_refused_and_a_plan_of_lines_elsewhere():
    model = build("torchvision basic")
    for reduction in (Prune(), Merge()):
        with pytest.raises(InputError, match=r"takes out tokens.*reduction=RowsAndColumns\(\)"):
            compress(model, Plan({0: 2}, Shift("block"), reduction))
    vit = timm.create_model("deit_tiny_patch16_224", depth=2)
    with pytest.raises(
        InputError, match=r"rows-and-columns takes rows and columns.*blocks of tokens: use"
    ):
        compress(vit, Plan.paper("resnet"))


def test_scores_of_other_models_are_refused():
    model, vit = build("torchvision basic"), timm.create_model("deit_tiny_patch16_224", depth=2)
    for score in (Shift(), ClassAttention()):
        with pytest.raises(InputError, match=r"needs the .* of a transformer's block"):
            compress(model, plan_for(score=score))
    for score in (Shift("branch"), Shift("stage"), Border()):
        with pytest.raises(InputError, match=r"needs the .* of a ResNet's stage"):
            compress(vit, Plan({0: 2}, score))
    with pytest.raises(InputError, match=r"compares norms, which have no cosine"):
        run(model, images(), plan_for(score=Shift("stage", "cosine")))


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        ({4: 1}, r"drops after stage 4; this model has 4 stages, 0 to 3"),
        ({0: 14}, r"drops 14 of the 14 columns of stage 0; at least one must stay"),
        ({3: 5}, r"drops 5 of the 3 rows of stage 3"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(drop, message):
    with pytest.raises(InputError, match=message):
        run(build("torchvision basic"), images(), plan_for(drop=drop))


def test_an_override_is_refused():
    class Padded(torchvision.models.ResNet):
        def forward(self, x):
            return super().forward(nn.functional.pad(x, (1, 1)))

    block = torchvision.models.resnet.BasicBlock
    with pytest.raises(InputError, match=r"Padded cannot be compressed: repshift was not checked"):
        describe(Padded(block, [1, 1, 1, 1]))
    for name in ("res2net50_26w_4s", "resnest14d", "regnetx_002", "convnext_atto"):
        with pytest.raises(InputError, match=r"cannot be compressed: repshift was not checked"):
            describe(timm.create_model(name))


class Own(nn.Module):
    """Two stages of one block without a shortcut module; ``between`` comes before the second."""

    def __init__(self, between=None):
        super().__init__()
        block = torchvision.models.resnet.BasicBlock
        self.first, self.second = block(3, 3), block(3, 3)
        self.between = between or nn.Identity()

    def forward(self, x):
        return self.second(self.between(self.first(x)))

    @property
    def spec(self):
        return ResNetSpec([Stage(b, b, b.bn2, b.downsample) for b in (self.first, self.second)])


def test_a_model_of_one_s_own():
    model, photos = Own().eval(), torch.randn(2, 3, 8, 6)
    output, compression = run(model, photos, plan_for(drop={0: 2, 1: 1}), model.spec)
    assert output.shape == (2, 3, 5, 3)
    assert compression.restore(output).shape == photos.shape


@pytest.mark.parametrize(
    ("between", "message"),
    [
        (nn.Upsample(size=(8, 6)), r"a grid of \[8, 6\] left stage 1, which got \[6, 4\]"),
        (nn.Flatten(0, 1), r"stage 1 must return feature maps \[B, C, H, W\]"),
    ],
)
def test_a_model_that_does_something_between_its_stages_is_an_error(between, message):
    model = Own(between).eval()
    if isinstance(between, nn.Flatten):
        model.second.forward = lambda x: x
    with pytest.raises(InputError, match=message):
        run(model, torch.randn(2, 3, 8, 6), plan_for(drop={0: 2}), model.spec)


def test_a_stage_that_does_not_run_is_an_error():
    model = Own().eval()
    spec = ResNetSpec([*model.spec.stages, *Own().spec.stages])
    with pytest.raises(InputError, match=r"only 2 of 4 stages ran"):
        run(model, torch.randn(2, 3, 8, 6), plan_for(drop={0: 2}), spec)
    with pytest.raises(InputError, match="at least one stage"):
        ResNetSpec([])
