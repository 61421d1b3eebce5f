"""The small UMT models of the fixtures."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from repshift.evaluation.models.umt.answering import AnsweringModel
from repshift.evaluation.models.umt.config import UMTConfig
from repshift.evaluation.models.umt.retrieval import RetrievalModel

FIXTURES = Path(__file__).parent / "fixtures"
RETRIEVAL = UMTConfig("umt-small", 64, 3, 4, 48, 4, 4, 2, 32, vocabulary=320, positions=40)
ANSWERING = UMTConfig("umt-tiny", 48, 3, 4, 48, 4, 4, 2, 32, vocabulary=320, positions=40)


def fixture(name):
    """Weights, and the rest with its floats in float64."""
    held = load_file(FIXTURES / f"{name}.safetensors")
    weights = {k: v for k, v in held.items() if not k.startswith(("input.", "output."))}
    rest = {
        key: value.double() if value.is_floating_point() else value
        for key, value in held.items()
        if key not in weights
    }
    return weights, rest


def retrieval_model(pool="frames"):
    """In float64, so that what is left is the reference's own error."""
    model = RetrievalModel(RETRIEVAL, pool)
    model.load_state_dict(fixture("umt_retrieval")[0])
    return model.eval().requires_grad_(False).double()


def answering_model():
    model = AnsweringModel(ANSWERING)
    model.load_state_dict(fixture("umt_qa")[0])
    return model.eval().requires_grad_(False).double()


def close(found, expected, tolerance=1e-5):
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=1e-5, check_dtype=False)
