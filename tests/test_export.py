"""Leaving Python: ONNX files of compressed models give PyTorch's outputs and survivors."""

import warnings
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import resnet_models
import text_models
import transformers_models
import vim_models
from models import build, images

onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.usefixtures("one_registry")

TWICE = {0: 0.3, 1: 4}
METHODS = [
    pytest.param("shift(mlp, l2)", TWICE, marks=pytest.mark.slow),
    pytest.param("shift(mlp, l2) + merge", TWICE, marks=pytest.mark.slow),  # int8's, in its file
    pytest.param("tome", TWICE, marks=pytest.mark.slow),  # of words, below
    pytest.param("shift(mlp, l2) + vid-tldr", TWICE, marks=pytest.mark.slow),
    ("shift(mlp, l2) + vid-tldr", {0: 0.3}),
]


class WithSurvivors(nn.Module):
    def __init__(self, model, compression):
        super().__init__()
        self.model, self.compression = model, compression

    def forward(self, images):
        return torch.cat((self.model(images), self.compression.kept.float()), dim=1)


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def to_onnx(model, given, path):
    """PyTorch's own exporter, with a dynamic batch; returns what runs the file.

    Unoptimised: rewriting the graph takes half of the time, and what `repshift export` writes is
    optimised, below.
    """
    dynamic = {name: {0: torch.export.Dim("batch")} for name in given}
    write(path, model, kwargs=given, dynamic_shapes=dynamic)
    return session(path)


def write(path, model, **given):
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (), path, dynamo=True, verbose=False, optimize=False, **given)


def compare(model, make, path):
    """The file gives the outputs of PyTorch, at the batch of the example and at others."""
    run = to_onnx(model, make(2), path)
    for batch in (1, 2, 5):
        given = make(batch)
        with torch.no_grad():
            expected = pytree.tree_leaves(model(**given))
        found = run.run(None, {part.name: given[part.name].numpy() for part in run.get_inputs()})
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(ours), theirs, atol=1e-4, rtol=1e-4)


def timm_vit():
    return build("deit distilled", depth=2), lambda batch: {"x": images(batch)}


def transformers_vit():
    name, config, own = transformers_models.FAMILIES["vit"]
    model = transformers_models.build((name, config, {**own, "num_hidden_layers": 2}))
    return model, partial(transformers_models.inputs, model)


def transformers_text():
    model = text_models.build("roberta pre-norm", torch.float32, num_hidden_layers=2)
    return model, lambda batch: text_models.sentences((20, 11, 16, 13, 18)[:batch])


def torchvision_vit():
    vit = pytest.importorskip("torchvision.models.vision_transformer")
    model = vit.VisionTransformer(40, 8, 2, 2, 32, 64, num_classes=7).eval()
    nn.init.normal_(model.heads.head.weight, std=0.2)
    return model, lambda batch: {"x": torch.randn(batch, 3, 40, 40)}


def open_clip_vit():
    transformer = pytest.importorskip("open_clip.transformer")
    model = transformer.VisionTransformer(40, 8, 32, 2, 2, 2.0, output_dim=7).eval()
    return model, lambda batch: {"x": torch.randn(batch, 3, 40, 40)}


# A model of images goes through the command, below; every library and method take minutes.
FAST = {transformers_text: "shift(block, l2)"}
LIBRARIES = (timm_vit, transformers_vit, transformers_text, torchvision_vit, open_clip_vit)


@pytest.mark.parametrize(
    ("library", "method"),
    [
        pytest.param(library, method, marks=() if FAST.get(library) == method else pytest.mark.slow)
        for library in LIBRARIES
        for method in ("shift(block, l2)", "shift(block, l2) + merge", "tome")
    ],
)
def test_every_library_by_the_exporter_of_pytorch(library, method, plain, tmp_path):
    model, make = library()
    with plain.compress(model, plain.Plan.from_method(method, {0: 0.3, 1: 2})):
        compare(model, make, tmp_path / "m.onnx")


@pytest.mark.parametrize("score", [pytest.param("Border", marks=pytest.mark.slow), "Shift"])
def test_rows_and_columns_of_a_resnet(score, plain, tmp_path):
    model = resnet_models.build("torchvision basic")
    score = plain.Shift("block") if score == "Shift" else plain.Border()
    with plain.compress(model, plain.Plan({0: 0.3}, score, plain.RowsAndColumns())):
        compare(model, lambda batch: {"x": resnet_models.images(batch)}, tmp_path / "m.onnx")


@pytest.mark.slow  # of PyTorch's exporter, not of ours
def test_padding_that_sees_nothing_differs_in_the_dense_model_itself(plain, tmp_path):
    """In a window of ModernBERT padding may see no token: ONNX's softmax has no answer to that.

    PyTorch's exporter lets such a row attend to all; no other token sees it.
    """
    model = text_models.build("modernbert", torch.float32, num_hidden_layers=3)
    given = text_models.sentences((20, 11))
    run = to_onnx(model, given, tmp_path / "m.onnx")
    found = run.run(None, {part.name: given[part.name].numpy() for part in run.get_inputs()})
    found = torch.from_numpy(found[0])
    with torch.no_grad():
        expected = model(**given).last_hidden_state
    near = (found - expected).abs().amax(-1) < 1e-4
    assert near[given["attention_mask"].bool()].all()
    assert not near.all()


def test_the_scan_of_vision_mamba_is_no_operator_of_onnx(plain, tmp_path):
    from repshift.evaluation.models.vim.model import VisionMamba

    given = {"images": torch.randn(2, 3, 64, 64)}
    with pytest.raises(torch.onnx.OnnxExporterError) as told:
        to_onnx(VisionMamba(replace(vim_models.SMALL, depth=1)), given, tmp_path / "m.onnx")
    assert "selective_scan" in str(told.value.__cause__)


class Choice(nn.Module):
    """What prune and tome choose, by scores and by likeness."""

    def __init__(self, ascending):
        super().__init__()
        self.ascending = ascending

    def forward(self, scores, metric):
        from repshift.reductions.bipartite import match
        from repshift.reductions.prune import highest

        return *highest(scores, 9), *match(metric, scores, 7, 1, self.ascending)


@pytest.mark.parametrize("ascending", [True, False])
def test_of_equal_scores_the_same_leave(ascending, plain, tmp_path):
    def make(batch):
        scores = torch.randint(0, 3, (batch, 40)).float()
        scores[:, 0], scores[:, -2:] = torch.inf, -torch.inf
        return {"scores": scores, "metric": torch.eye(4)[torch.randint(0, 4, (batch, 40))]}

    choice = Choice(ascending)
    dynamic = {name: {0: torch.export.Dim("batch")} for name in make(2)}
    exported = torch.export.export(choice, (), make(2), dynamic_shapes=dynamic)
    write(tmp_path / "c.onnx", exported)
    run, program = session(tmp_path / "c.onnx"), exported.module()
    for batch in (1, 2, 5):
        given = make(batch)
        expected = choice(**given)
        for found in (
            map(torch.from_numpy, run.run(None, {n: v.numpy() for n, v in given.items()})),
            program(**given),
        ):
            for ours, theirs in zip(found, expected, strict=True):
                assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("method", "drop"), METHODS)
def test_the_command_writes_one_checked_file(method, drop, plain, tmp_path):
    from repshift.evaluation.tasks.export import export_onnx

    model = build("dinov3", depth=2)
    with plain.compress(model, plain.Plan.from_method(method, drop)) as compression:
        both = WithSurvivors(model, compression).eval()
        done = export_onnx(both, images(2), tmp_path / "m.onnx")
        assert done.difference <= 1e-4
        assert done.size == (tmp_path / "m.onnx").stat().st_size
        for batch in (1, 3, 5):
            photos = images(batch)
            with torch.no_grad():
                output, kept = model(photos), compression.kept
            found = session(tmp_path / "m.onnx").run(None, {"images": photos.numpy()})[0]
            found = torch.from_numpy(found)
            torch.testing.assert_close(found[:, :7], output, atol=1e-4, rtol=0)
            assert torch.equal(found[:, 7:].long(), kept)


def test_a_file_that_differs_is_not_left_behind(tmp_path, plain):
    from repshift.evaluation.tasks.export import export_onnx

    class Moody(nn.Module):
        def forward(self, images):
            exporting = torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()
            return images.mean((2, 3)) + (0 if exporting else 1)

    with pytest.raises(plain.InputError, match="nothing was written"):
        export_onnx(Moody(), images(2), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_operator_that_onnx_lacks_is_named(tmp_path, plain):
    from repshift.evaluation.tasks.export import export_onnx

    @torch.library.custom_op("repshift_tests::mean", mutates_args=())
    def mean(images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))

    mean.register_fake(lambda images: images.new_empty(images.shape[:2]))

    class Own(nn.Module):
        def forward(self, images):
            return mean(images)

    with pytest.raises(plain.InputError, match="has no operator repshift_tests.mean.default$"):
        export_onnx(Own(), images(2), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_weights_beyond_one_file_are_refused(tmp_path, plain):
    from repshift.evaluation.tasks.export import export_onnx

    with pytest.raises(plain.InputError, match=r"take 4.3 GB; an ONNX file holds up to 2 GB"):
        export_onnx(nn.Linear(2**15, 2**15, device="meta"), images(2), tmp_path / "m.onnx")


def test_words_of_modernbert_under_tome_too(plain, tmp_path):
    """Sizes are added to logits whose rows may see no key: no NaN spreads from there."""
    model = text_models.build("modernbert", torch.float32, num_hidden_layers=2)
    given = text_models.sentences((20, 11))
    with plain.compress(model, plain.Plan({0: 3}, reduction=plain.ToMe())) as compression:
        run = to_onnx(model, given, tmp_path / "m.onnx")
        found = run.run(None, {part.name: given[part.name].numpy() for part in run.get_inputs()})
        with torch.no_grad():
            expected = model(**given).last_hidden_state
        words = given["attention_mask"].bool().gather(1, compression.kept)
    torch.testing.assert_close(torch.from_numpy(found[0])[words], expected[words])
