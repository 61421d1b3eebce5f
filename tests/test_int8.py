"""Int8 and fewer tokens together: what quantizes a model leaves its compression as it is."""

import copy

import pytest
import torch
from torch.nn import functional as F

from models import build, images

METHODS = ["shift(mlp, l2)", "shift(mlp, l2) + merge", "tome"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("method", METHODS)
def test_torchao_before_and_after_compress(method, plain):
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    config = quantization.Int8DynamicActivationInt8WeightConfig()
    plan = plain.Plan.from_method(method, {0: 0.3, 1: 2})
    dense, photos = build("deit distilled", depth=2), images(4)
    before, after = copy.deepcopy(dense), copy.deepcopy(dense)
    quantization.quantize_(before, config)
    first = plain.compress(before, plan)
    second = plain.compress(after, plan)
    quantization.quantize_(after, config)
    with torch.inference_mode():
        found, other = before(photos), after(photos)
        with plain.compress(dense, plan) as compression:
            expected = dense(photos)
            counts = compression.counts
    assert type(before.blocks[0].mlp.fc1.weight).__name__ == "Int8Tensor"
    assert first.counts == second.counts == counts
    assert torch.equal(first.kept, second.kept)
    assert torch.equal(found, other)
    assert F.cosine_similarity(found, expected).min() > 0.99
    assert not torch.equal(found, expected)


@pytest.mark.usefixtures("one_registry")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_the_quantizer_of_onnxruntime(plain, tmp_path):
    """The file still drops tokens, and its MatMuls of weights are those of whole numbers."""
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    quantization = pytest.importorskip("onnxruntime.quantization")
    from repshift.evaluation.tasks.export import export_onnx

    model, plan = (
        build("deit distilled", depth=2),
        plain.Plan({0: 0.3, 1: 2}, reduction=plain.Merge()),
    )
    with plain.compress(model, plan):
        export_onnx(model, images(2), tmp_path / "m.onnx")
        quantization.quantize_dynamic(
            tmp_path / "m.onnx", tmp_path / "q.onnx", op_types_to_quantize=["MatMul"]
        )
        whole = [n.op_type for n in onnx.load(tmp_path / "q.onnx").graph.node]
        assert whole.count("MatMulInteger") == 10  # four in each of two blocks, and two heads
        session = runtime.InferenceSession(tmp_path / "q.onnx", providers=["CPUExecutionProvider"])
        for batch in (1, 3):
            photos = images(batch)
            with torch.no_grad():
                expected = model(photos)
            found = torch.from_numpy(session.run(None, {"images": photos.numpy()})[0])
            assert F.cosine_similarity(found, expected).min() > 0.99
    with torch.no_grad():
        dense = model(photos)
    assert F.cosine_similarity(found, expected).mean() > F.cosine_similarity(found, dense).mean()
