"""Peak memory grows with the tokens, not with their square, also where tokens are merged."""

import pytest
import timm
import torch

from repshift import ColumnAttention, Merge, Plan, Redundancy, Shift, ToMe, VidTLDR, compress
from repshift.measure.memory import peak_memory

pytestmark = pytest.mark.gpu
DROP = {0: 0.2, 1: 0.2}
PLANS = {
    "dense": Plan({}),
    "shift": Plan(DROP),
    "shift + merge": Plan(DROP, Shift(), Merge()),
}
# Matching compares half of the tokens with the other half: a quarter of a map without its heads.
MATCHING = {
    "redundancy(mlp) + merge": Plan(DROP, Redundancy("mlp"), Merge()),
    "shift + vid-tldr": Plan(DROP, Shift(), VidTLDR()),
    "tome": Plan(DROP, reduction=ToMe()),
}


def peak(side, plan, device):
    """Bytes a token of three blocks of DeiT-S's width, on an image of side x side patches."""
    dtype = torch.bfloat16
    model = timm.create_model(
        "deit_small_patch16_224", img_size=8 * side, patch_size=8, depth=3
    )  # fmt: skip
    model = model.eval().to(device, dtype)
    photo = torch.randn(1, 3, 8 * side, 8 * side, device=device, dtype=dtype)
    with compress(model, plan):
        for _ in range(2):
            bytes_ = peak_memory(lambda: model.forward_features(photo), device)
    return bytes_ / side**2


def sides(device):
    """Patches of a side, then twice as many; more on CUDA, whose libraries hold some workspace."""
    return (48, 96) if device.type == "cuda" else (24, 48)


@pytest.mark.parametrize("method", PLANS)
def test_memory_is_linear_in_the_tokens(device, method):
    small, large = (peak(side, PLANS[method], device) for side in sides(device))
    assert large < 1.25 * small


@pytest.mark.parametrize("method", MATCHING)
def test_matching_forms_less_than_one_head_of_a_map(cuda, method):
    side, tokens = 96, 96**2
    dense = peak(side, PLANS["dense"], cuda) * tokens
    # Two float32 tables of half by half of the tokens.
    assert peak(side, MATCHING[method], cuda) * tokens < dense + 2.5 * tokens**2


def test_a_score_that_reads_the_map_is_not_linear(device):
    small, large = (peak(side, Plan(DROP, ColumnAttention()), device) for side in sides(device))
    assert large > 2 * small
