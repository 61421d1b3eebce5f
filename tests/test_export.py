"""Leaving Python: ONNX files of compressed models give PyTorch's outputs and survivors."""

import pytest
import torch
from torch import nn

from models import build, images

onnxruntime = pytest.importorskip("onnxruntime")

METHODS = ["shift(mlp, l2)", "shift(mlp, l2) + merge", "tome", "shift(mlp, l2) + vid-tldr"]


class WithSurvivors(nn.Module):
    def __init__(self, model, compression):
        super().__init__()
        self.model, self.compression = model, compression

    def forward(self, images):
        return torch.cat((self.model(images), self.compression.kept.float()), dim=1)


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["deit distilled", "dinov3"])
def test_onnx_equals_pytorch_at_any_batch_size(family, method, plain, tmp_path):
    from repshift.evaluation.tasks.export import export_onnx

    model = build(family)
    with plain.compress(model, plain.Plan.from_method(method, {0: 0.3, 2: 4})) as compression:
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


def test_a_stable_sort_stays_stable(tmp_path, plain):
    from repshift.evaluation.tasks.export import export_onnx

    class Order(nn.Module):
        def forward(self, images):
            return images.flatten(1).argsort(dim=1, descending=True, stable=True).float()

    ties = torch.randint(0, 3, (4, 1, 5, 5)).float()
    export_onnx(Order(), ties, tmp_path / "o.onnx")
    found = session(tmp_path / "o.onnx").run(None, {"images": ties.numpy()})[0]
    assert torch.equal(torch.from_numpy(found), Order()(ties))


def test_a_file_that_differs_is_not_left_behind(tmp_path, plain):
    from repshift.evaluation.tasks.export import export_onnx

    class Moody(nn.Module):
        def forward(self, images):
            exporting = torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()
            return images.mean((2, 3)) + (0 if exporting else 1)

    with pytest.raises(plain.InputError, match="nothing was written"):
        export_onnx(Moody(), images(2), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_weights_beyond_one_file_are_refused(tmp_path, plain):
    from repshift.evaluation.tasks.export import export_onnx

    with pytest.raises(plain.InputError, match=r"take 4.3 GB; an ONNX file holds up to 2 GB"):
        export_onnx(nn.Linear(2**15, 2**15, device="meta"), images(2), tmp_path / "m.onnx")
