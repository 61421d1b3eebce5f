"""UMT's video encoder, the paper's dropping and vid-TLDR's merging, against their references."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from repshift import AttentionEntropy, InputError, Plan, Shift, VidTLDR, compress
from repshift.evaluation.models.umt.adapter import describe
from repshift.evaluation.models.umt.vision import VisionEncoder, sinusoids
from repshift.reductions.vid_tldr import foreground

FIXTURES = Path(__file__).parent / "fixtures"
DENSE, DROPPED, MERGED = (
    load_file(FIXTURES / f"{name}.safetensors")
    for name in ("umt_vision", "umt_representation_shift", "vidtldr")
)


def build(pool="all"):
    """In float64, so that what is left is the reference's own error."""
    model = VisionEncoder(width=64, depth=4, heads=4, pool=pool)
    prefix = "vision_encoder."
    weights = {k.removeprefix(prefix): v for k, v in DENSE.items() if k.startswith(prefix)}
    model.load_state_dict(weights)
    return model.eval().double()


def run(model, video):
    left = []
    hooks = [
        block.register_forward_hook(lambda _, __, tokens: left.append(tokens))
        for block in model.encoder.blocks
    ]
    with torch.no_grad():
        tokens, pooled = model(video.double())
    for hook in hooks:
        hook.remove()
    return tokens, pooled, left


def close(found, expected, tolerance=1e-5):
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=1e-5, check_dtype=False)


@pytest.mark.parametrize("pool", ["frames", "all"])
def test_the_dense_encoder_is_that_of_the_reference(pool):
    tokens, pooled, left = run(build(pool), DENSE["input.video"])
    close(sinusoids(48, 64)[None], DENSE["output.pos_embed"])
    for block, found in enumerate(left):
        close(found, DENSE[f"output.block{block}"], 2e-5)
    close(tokens, DENSE["output.final_norm"])
    close(pooled, DENSE[f"output.pooled_keep_temporal_{str(pool == 'frames').lower()}"])


def test_a_single_frame_is_that_of_the_reference():
    tokens, pooled, _ = run(build("frames"), DENSE["input.image"])
    close(tokens, DENSE["output.image_final_norm"])
    close(pooled, DENSE["output.image_pooled"])


@pytest.mark.parametrize("share", [0.2, 0.1])
@pytest.mark.parametrize("metric", ["l2", "l1", "cosine"])
@pytest.mark.parametrize("definition", ["printed", "update"])
def test_the_papers_dropping(definition, metric, share, monkeypatch):
    word = {"printed": "literal", "update": "residual"}[definition]
    key = f"output.{word}.{metric}.r{share * 100:.0f}."
    model, scores, score = build(), [], Shift.__call__
    monkeypatch.setattr(Shift, "__call__", lambda *args: scores.append(score(*args)) or scores[-1])
    plan = Plan(dict.fromkeys(range(3), share), Shift("mlp", metric, definition))
    with compress(model, plan, describe(model)) as compression:
        tokens, _, left = run(model, DROPPED["input.video"])
    for block in range(3):
        assert torch.equal(compression.kept_after(block), DROPPED[f"{key}kept{block}"])
        close(scores[block], DROPPED[f"{key}score{block}"], 5e-5)
    close(tokens, DROPPED[f"{key}final_norm"])
    if f"{key}tokens_after_drop2" in DROPPED:
        close(left[2], DROPPED[f"{key}tokens_after_drop2"], 2e-5)


@pytest.mark.parametrize(
    ("name", "schedule"),
    [("A", {0: 10, 1: 6, 3: 4}), ("B", {0: 0.25, 2: 0.1}), ("C", {0: 30, 1: 9})],
)
def test_vid_tldr(name, schedule, monkeypatch):
    model, decided, decide = build(), [], VidTLDR.__call__

    def watch(reduction, seen, scores, drop):
        step = decide(reduction, seen, scores, drop)
        decided.append((seen.tokens, foreground(scores), step))
        return step

    monkeypatch.setattr(VidTLDR, "__call__", watch)
    plan = Plan(schedule, AttentionEntropy(), VidTLDR())
    with compress(model, plan, describe(model)) as compression:
        tokens, pooled, left = run(model, MERGED["input.video"])
    assert compression.counts == [len(block[0]) for block in left]
    for block, (before, saliency, step) in zip(schedule, decided, strict=True):
        key = f"output.{name}.layer{block}."
        close(before, MERGED[f"{key}before_merge"], 2e-5)
        close(saliency, MERGED[f"{key}saliency"])
        assert torch.equal(step.dropped, 2 * MERGED[f"{key}src_in_even"])
        target = step.kept.gather(1, step.target)
        assert torch.equal(target, 2 * MERGED[f"{key}dst_in_odd"] + 1)
        unmerged = 2 * MERGED[f"{key}unmerged_in_even"]
        assert torch.equal(step.kept[:, : unmerged.shape[1]], unmerged)
        close(compression.sizes_after(block), MERGED[f"{key}size"])
    for block, found in enumerate(left):
        close(found, MERGED[f"output.{name}.block{block}"], 3e-5)
    close(tokens, MERGED[f"output.{name}.final_norm"], 2e-5)
    close(pooled, MERGED[f"output.{name}.pooled"])


def test_vid_tldr_takes_the_shift_without_a_map():
    model, video = build(), MERGED["input.video"]
    plan = Plan({0: 10, 1: 6}, Shift(), VidTLDR("plain"))
    with compress(model, plan, describe(model)) as compression:
        tokens, _, _ = run(model, video)
    assert compression.counts == [38, 32, 32, 32]
    assert tokens.isfinite().all()


def test_frames_cannot_be_pooled_once_tokens_have_left():
    model = build("frames")
    with (
        compress(model, Plan({0: 0.2}), describe(model)),
        pytest.raises(InputError, match='39 of 3 frames are left; use pool="all"'),
    ):
        run(model, DENSE["input.video"])
