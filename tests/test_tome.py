"""ToMe against numbers of its reference implementation (tests/fixtures/README.md)."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer

from repshift import Plan, ToMe, compress
from repshift.reductions.bipartite import match
from repshift.sequence.token_map import Step

FIXTURES = Path(__file__).parent / "fixtures"
MATCHING = load_file(FIXTURES / "tome_matching.safetensors")
SCHEDULES = {"r6": [6, 6, 6, 6], "r5_decreasing": [10, 6, 3, 0], "list": [9, 0, 4, 0]}
CASES = {"plain": (0, 6), "cls": (1, 6), "cls_distill": (2, 5), "cap_plain": (0, 21)}


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5, check_dtype=False)


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
    kept, dropped, target = match(MATCHING["input.metric"], scores, drop, prefix)

    assert torch.equal(dropped, 2 * expected["src_idx"])
    assert torch.equal(kept.gather(1, target), 2 * expected["dst_idx"] + 1)
    # Without a class token the reference leaves the unmerged ones in the order of their likeness;
    # here survivors keep their order, and its results are compared in ours.
    even = 2 * expected["unm_idx"].sort(dim=1).values
    even_prefix = (prefix + 1) // 2
    assert torch.equal(kept[:, prefix:][:, : even.shape[1] - even_prefix], even[:, even_prefix:])

    step = Step(kept, dropped, target, torch.ones(dropped.shape))
    size = MATCHING["input.size"].squeeze(-1)
    odd = torch.arange(1, 21, 2).expand(2, -1)
    order = torch.cat((2 * expected["unm_idx"], odd), dim=1)
    if prefix == 2:  # the distillation token comes second
        order = torch.cat((order[:, :1], odd[:, :1], order[:, 1:-10], odd[:, 1:]), dim=1)
    theirs = (kept[:, :, None] == order[:, None]).int().argmax(-1)

    def ours(name):
        value = expected[name]
        return value.gather(1, theirs[..., None].expand(-1, -1, value.shape[-1]))

    tokens = MATCHING["input.tokens"]
    close(step.apply(tokens, size), ours("tokens"))
    close(step.apply(tokens, None), ours("tokens_unit"))
    close(step.resize(size), ours("size").squeeze(-1))
    close(step.resize(None), ours("size_unit").squeeze(-1))
    if prefix < 2:  # the reference's unmerge forgets that the distillation token moved
        close(step.map.restore(step.apply(tokens, size)), expected["unmerge"])
    assert torch.equal(step.map.parent, ours("source").argmax(1))


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
