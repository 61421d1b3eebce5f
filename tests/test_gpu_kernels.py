"""What runs on a GPU: which attention kernels, with what precision, and that none waits."""

import pytest
import timm
import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from models import build, images
from repshift import ClassAttention, Merge, Plan, Random, Redundancy, Shift, ToMe, VidTLDR, compress
from repshift.measure.flops import count_flops
from repshift.runtime.attention_kernels import (
    AttentionCall,
    bias_as_channel,
    varlen_attention,
    varlen_attention_kernel,
    varlen_attention_loop,
)
from repshift.sequence.segments import Segments

pytestmark = pytest.mark.gpu

HALF = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
DROP = {0: 0.3, 2: 4}
PLANS = {
    "random": Plan(DROP, Random()),
    "shift": Plan(DROP, Shift()),
    "shift + merge": Plan(DROP, Shift(), Merge()),
    "shift + vid-tldr": Plan(DROP, Shift(), VidTLDR()),
    "redundancy(mlp) + merge": Plan(DROP, Redundancy("mlp"), Merge()),
    "tome": Plan(DROP, reduction=ToMe()),
}


def kernels(run):
    """How often each CUDA kernel ran, by its name."""
    run()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        run()
        torch.cuda.synchronize()
    counts = {event.key: event.count for event in seen.key_averages()}
    if not counts:
        pytest.skip("the profiler sees no kernels on this machine")
    return counts


def fused(names):
    return any(part in name for name in names for part in ("flash", "fmha", "sdpa"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("method", PLANS)
@torch.inference_mode()
def test_attention_runs_in_a_fused_kernel(cuda, method, dtype):
    model = timm.create_model("deit_small_patch16_224", depth=4).eval().to(cuda, dtype)
    photos = torch.randn(4, 3, 224, 224, device=cuda, dtype=dtype)
    with compress(model, PLANS[method]):
        told = count_flops(lambda: model(photos))[1]
        assert set(told.split(" + ")) <= {"flash", "cudnn", "efficient"}, told
        names = kernels(lambda: model(photos))
    assert fused(names), names
    assert not [name for name in names if "softmax" in name.lower()]


@torch.inference_mode()
def test_scores_that_read_the_map_do_form_it(cuda):
    model = timm.create_model("deit_small_patch16_224", depth=4).eval().to(cuda, torch.bfloat16)
    photos = torch.randn(4, 3, 224, 224, device=cuda, dtype=torch.bfloat16)
    with compress(model, Plan(DROP, ClassAttention())):
        assert "eager" in count_flops(lambda: model(photos))[1]
        names = kernels(lambda: model(photos))
    assert [name for name in names if "softmax" in name.lower()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("width", [32, 64, 80])
@pytest.mark.parametrize("causal", [False, True])
def test_sizes_as_one_more_channel_are_sizes_as_a_mask(device, dtype, width, causal):
    query, key, value = torch.randn(3, 2, 4, 50, width, device=device, dtype=dtype)
    size = torch.randint(1, 40, (2, 50), device=device).float()
    call = AttentionCall(query, key, value, is_causal=causal)
    exact = AttentionCall(query.double(), key.double(), value.double(), is_causal=causal)
    bias = size.double().log()[:, None, None]
    expected = exact.eager(size.double())[0]
    torch.testing.assert_close(exact.fused(bias=bias), expected)
    found = bias_as_channel(call, size).double()
    # No worse than the mask in the same precision, which rounds the logarithms too.
    masked = call.fused(bias=size.log().to(dtype)[:, None, None]).double()
    room = 8 * torch.finfo(dtype).eps
    assert (found - expected).abs().max() <= 2 * (masked - expected).abs().max() + room


@HALF
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_kernel_for_different_lengths_is_the_loop(cuda, dtype, causal, groups):
    segments = Segments.pack(torch.tensor([37, 5, 1, 130], device=cuda))
    total = sum(segments.counts)
    query = torch.randn(1, 4, total, 64, device=cuda, dtype=dtype)
    key, value = torch.randn(2, 1, 4 // groups, total, 64, device=cuda, dtype=dtype)
    call = AttentionCall(query, key, value, is_causal=causal, scale=0.2, enable_gqa=groups > 1)
    exact = AttentionCall(
        query.double(), key.double(), value.double(), None, 0.0, causal, 0.2, groups > 1
    )
    found = varlen_attention_kernel(call, segments).double()
    torch.testing.assert_close(found, varlen_attention_loop(exact, segments), atol=0.02, rtol=0.02)


@HALF
def test_lengths_reach_that_kernel(cuda, dtype):
    segments = Segments.pack(torch.tensor([37, 5, 130], device=cuda))
    parts = torch.randn(3, 1, 4, sum(segments.counts), 64, device=cuda, dtype=dtype)
    counts = kernels(lambda: varlen_attention(AttentionCall(*parts), segments))
    assert sum(count for name, count in counts.items() if fused([name])) == 1, counts


def waits(run):
    """What PyTorch says of the first operation that waits for the device; empty if none does."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    except RuntimeError as error:
        return str(error)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return ""


@pytest.mark.parametrize("method", PLANS)
@pytest.mark.parametrize("family", ["deit distilled", "siglip", "dinov2 registers", "dinov3"])
@torch.inference_mode()
def test_no_forward_but_the_first_waits_for_the_device(cuda, family, method):
    model, photos = build(family, torch.bfloat16).to(cuda), images(3, torch.bfloat16).to(cuda)
    if told := waits(lambda: model(photos)):
        pytest.skip(f"the dense model waits itself: {told}")
    with compress(model, PLANS[method]):
        model(photos)
        assert not waits(lambda: model(photos))


@torch.inference_mode()
def test_nan_is_an_error_at_the_first_forward(device):
    model = build("deit").to(device)
    with compress(model, Plan(DROP)), pytest.raises(ValueError, match=r"block 0.*NaN"):
        model(images().to(device) * torch.nan)


@torch.inference_mode()
def test_attention_alone_is_what_it_is_fused(device):
    parts = torch.randn(3, 2, 4, 50, 64, device=device)
    expected = F.scaled_dot_product_attention(*parts)
    torch.testing.assert_close(AttentionCall(*parts).eager()[0], expected, atol=1e-4, rtol=1e-4)
