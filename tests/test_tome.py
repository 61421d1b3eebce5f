"""ToMe against numbers of its reference implementation (tests/fixtures/README.md)."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer

from models import build, images
from repshift import Plan, ToMe, compress
from repshift.scores import Snapshots

FIXTURES = Path(__file__).parent / "fixtures"
MATCHING = load_file(FIXTURES / "tome_matching.safetensors")
SCHEDULES = {"r6": [6, 6, 6, 6], "r5_decreasing": [10, 6, 3, 0], "list": [9, 0, 4, 0]}
CASES = {"plain": (0, 6), "cls": (1, 6), "cls_distill": (2, 5), "cap_plain": (0, 21)}


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5, check_dtype=False)


def leave(metric, scores, drop, prefix, class_token):
    """ToMe's step where ``metric`` is the key of a single head."""
    seen = Snapshots(0, prefix, metric, keys=metric[:, None], class_token=class_token)
    return ToMe()(seen, scores, drop)


@pytest.mark.parametrize("case", [*CASES, "cap_cls"])
def test_the_matching_is_that_of_the_reference(case):
    prefix, drop = {**CASES, "cap_cls": (1, 21)}[case]
    expected = {
        name.rpartition(".")[2]: value
        for name, value in MATCHING.items()
        if case in name.split(".")
    }
    drop = Plan({0: drop}, reduction=ToMe()).leaving(0, 21 - prefix)
    scores = torch.zeros(2, 21).index_fill(1, torch.arange(prefix), torch.inf)
    step = leave(MATCHING["input.metric"], scores, drop, prefix, "cls" in case)

    odd = torch.arange(1, 21, 2).expand(2, -1)
    order = torch.cat((2 * expected["unm_idx"], odd), dim=1)
    if prefix == 2:  # the distillation token comes second
        order = torch.cat((order[:, :1], odd[:, :1], order[:, 1:-10], odd[:, 1:]), dim=1)
    assert torch.equal(step.kept, order)
    assert torch.equal(step.dropped, 2 * expected["src_idx"])
    assert torch.equal(step.kept.gather(1, step.target), 2 * expected["dst_idx"] + 1)

    size, tokens = MATCHING["input.size"].squeeze(-1), MATCHING["input.tokens"]
    close(step.apply(tokens, size), expected["tokens"])
    close(step.apply(tokens, None), expected["tokens_unit"])
    close(step.resize(size), expected["size"].squeeze(-1))
    close(step.resize(None), expected["size_unit"].squeeze(-1))
    if prefix < 2:  # the reference's unmerge forgets that the distillation token moved
        close(step.map.restore(step.apply(tokens, size)), expected["unmerge"])
    assert torch.equal(step.map.parent, expected["source"].argmax(1))


def test_without_a_class_token_the_even_tokens_left_stay_in_the_order_of_their_likeness():
    prefix, drop, (padded, held) = 3, 4, (16, 8)
    metric = torch.randn(2, 19, 5, dtype=torch.float64)
    scores = torch.zeros(2, 19).index_fill(1, torch.arange(prefix), torch.inf)
    scores[:, [padded, padded + 1]] = -torch.inf
    scores[:, [held, held + 1]] = torch.inf
    unit = torch.nn.functional.normalize(metric, dim=-1)
    kept = leave(metric, scores, drop, prefix, False).kept
    for image, row in enumerate(kept.tolist()):
        like = unit[image] @ unit[image, [3, 5, 7, 11, 13, 15]].T  # those that may be joined
        ranked = sorted((4, 6, 10, 12, 14, 18), key=lambda i: -like[i].max().item())
        # Padding leaves first, and what must stay is like no other.
        even = [padded, *ranked, held][drop:]
        assert row == [0, 1, 2, *even, *range(3, 19, 2)]
    in_order = leave(metric, scores, drop, prefix, True).kept
    assert torch.equal(in_order[:, 3:-8], kept[:, 3:-8].sort(dim=1).values)


@pytest.mark.parametrize("class_token", [False, True])
@pytest.mark.parametrize("drop", [1, 4])
def test_padding_is_joined_by_none_and_what_must_stay_stays(class_token, drop):
    metric, scores = torch.randn(3, 12, 5), torch.zeros(3, 12)
    scores[:, [0, 5, 6]], scores[0, 9:], scores[1, 7:] = torch.inf, -torch.inf, -torch.inf
    step = leave(metric, scores, drop, 1, class_token)
    assert step.kept.shape == (3, 12 - drop)
    every = torch.cat((step.kept, step.dropped), dim=1).sort(dim=1).values
    assert torch.equal(every, torch.arange(12).expand(3, -1))
    assert not scores.gather(1, step.dropped).isposinf().any()
    # The even ones of the padding leave before all others, and count nowhere.
    gone = scores.gather(1, step.dropped).isneginf()
    assert gone.sum(1).tolist() == [min(drop, 1), min(drop, 2), 0]
    assert torch.equal(step.share, (~gone).float())
    joined = scores.gather(1, step.kept).gather(1, step.target)
    assert joined[~gone].isfinite().all()


def test_rotary_positions_follow_tokens_in_the_order_of_their_likeness():
    model = build("rope", class_token=False, global_pool="avg")
    tables = {}
    with compress(model, Plan({0: 9, 1: 5}, reduction=ToMe())) as compression, torch.no_grad():
        for number, block in enumerate(model.blocks):
            block.attn.register_forward_pre_hook(
                lambda _, args, given, number=number: tables.update({number: given["rope"]}),
                with_kwargs=True,
            )
        features = model.forward_features(images())
        dense, kept = tables[0], [compression.kept_after(block) for block in range(3)]
    assert (kept[0].diff(dim=1) < 0).sum() > 3  # more than where the odd ones begin
    for block in (1, 2):
        for image, row in enumerate(kept[block - 1]):
            assert torch.equal(tables[block][image, 0], dense[row])
    assert torch.equal(compression.sizes.sum(1), torch.full((3,), 35.0))
    restored = compression.restore(features)
    at = compression.kept[..., None].expand_as(features)
    assert torch.equal(restored.gather(1, at), features)


@pytest.mark.parametrize("name", ["tome_vit", "tome_vit_distilled"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("proportional", "attention"), [(1, "proportional"), (0, "plain")])
def test_a_whole_vit_is_that_of_the_reference(name, schedule, proportional, attention):
    fixture = load_file(FIXTURES / f"{name}.safetensors")
    kind = VisionTransformerDistilled if "distilled" in name else VisionTransformer
    model = kind(32, 4, num_classes=10, embed_dim=48, depth=4, num_heads=4).eval()
    # In float64 what is left is the reference's own error.
    model.load_state_dict(
        {k: v for k, v in fixture.items() if not k.startswith(("input.", "output."))}
    )
    expected = {
        key.removeprefix(f"output.{schedule}.prop{proportional}."): value
        for key, value in fixture.items()
        if f".{schedule}.prop{proportional}." in key
    }
    left = []
    model.double()
    plan = Plan(dict(enumerate(SCHEDULES[schedule])), reduction=ToMe(attention))
    with compress(model, plan) as compression, torch.no_grad():
        for block in model.blocks:
            block.register_forward_hook(lambda _, __, tokens: left.append(tokens))
        logits = model(fixture["input.image"].double())
    close(logits, expected["logits"])
    for block, tokens in enumerate(left):
        close(tokens, expected[f"block{block}"])
    close(compression.sizes, expected["size3"])
    groups = compression.restore(torch.arange(left[-1].shape[1]).expand(2, -1)[..., None])
    assert torch.equal(groups.squeeze(-1), expected["group_of_token"])
