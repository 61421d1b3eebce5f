"""A compressed model of transformers is still one: attention, outputs, compilers, pipelines."""

import copy

import pytest
import torch
import transformers

from repshift import ClassAttention, InputError, Merge, Plan, Redundancy, ToMe, adapt, compress
from transformers_models import AVERAGES, FAMILIES, HEADS, REFUSED, build, first, inputs, run

PLAN = Plan({0: 0.3, 1: 3})
MERGES = [Plan({1: 3}, reduction=ToMe()), Plan({1: 3}, reduction=Merge())]


@pytest.mark.parametrize("family", FAMILIES)
def test_eager_attention_gives_what_fused_attention_gives(family):
    fused = build(FAMILIES[family], attn_implementation="sdpa")
    eager = build(FAMILIES[family], attn_implementation="eager")
    eager.load_state_dict(fused.state_dict())
    given = inputs(fused)
    with compress(fused, PLAN) as one, compress(eager, PLAN) as other:
        expected, got = run(fused, **given), run(eager, **given)
        assert one.kept.equal(other.kept)
    torch.testing.assert_close(first(got), first(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["vit", "dinov3", "vjepa 2"])
def test_flash_attention(family, cuda):
    pytest.importorskip("flash_attn")
    fused = build(FAMILIES[family], torch.float16).to(cuda)
    flash = build(FAMILIES[family], torch.float16, attn_implementation="flash_attention_2").to(cuda)
    flash.load_state_dict(fused.state_dict())
    given = {name: value.to(cuda) for name, value in inputs(fused).items()}
    with compress(fused, PLAN), compress(flash, PLAN):
        torch.testing.assert_close(
            first(run(flash, **given)), first(run(fused, **given)), atol=0.05, rtol=0.05
        )


@pytest.mark.parametrize("asked_before", [False, True])
@pytest.mark.parametrize("family", ["vit", "clip", "dinov2", "data2vec", "videomae"])
def test_hidden_states_show_what_left_each_block(family, asked_before):
    model = build(FAMILIES[family])
    if asked_before:
        run(model, output_hidden_states=True)
    with compress(model, PLAN) as compression:
        states = run(model, output_hidden_states=True).hidden_states
    assert [state.shape[1] for state in states[1:]] == compression.counts
    dense = run(model, output_hidden_states=True).hidden_states
    assert {state.shape[1] for state in dense} == {states[0].shape[1]}


@pytest.mark.parametrize("family", ["vit", "clip", "dinov3"])
def test_the_whole_forward_compiles_to_one_graph(family, plain):
    model = build(FAMILIES[family])
    reduction = plain.ToMe() if family == "vit" else plain.Prune()
    given = inputs(model)
    torch._dynamo.reset()
    with plain.compress(model, plain.Plan({1: 3}, reduction=reduction)) as compression:
        expected, kept = run(model, **given), compression.kept
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(first(run(compiled, **given)), first(expected))
        assert compression.kept.equal(kept)


@pytest.mark.parametrize("family", ["vit", "dinov3", "vjepa 2"])
def test_gradient_checkpointing_changes_no_gradient(family):
    model, gradients = build(FAMILIES[family]).train(), []
    given = inputs(model)
    for checkpointed in (False, True):
        if checkpointed:
            model.activation_checkpointing_enable()
        model.zero_grad()
        torch.manual_seed(0)
        with compress(model, PLAN) as compression:
            first(model(**given)).square().sum().backward()
        assert len(set(compression.counts)) == 2
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    "plan", [*MERGES, Plan({0: 3}, ClassAttention())], ids=["tome", "merge", "attention"]
)
def test_what_checkpointing_would_not_run_again_is_refused(plan):
    model = build(FAMILIES["vit"]).train()
    model.activation_checkpointing_enable()
    with compress(model, plan), pytest.raises(InputError, match="without repshift"):
        model(**inputs(model))


def test_auto_classes_and_copies():
    model = transformers.AutoModel.from_config(build(FAMILIES["vit"]).config).eval()
    compress(model, PLAN)
    assert run(copy.deepcopy(model)).last_hidden_state.shape[1] == 16


@pytest.mark.parametrize(
    ("task", "row"),
    [
        ("image-feature-extraction", FAMILIES["vit"]),
        ("image-classification", HEADS["vit"]),
        ("image-classification", AVERAGES["dinov2"]),
    ],
)
def test_pipelines(task, row):
    from PIL import Image

    model = build(row)
    size = {"height": 40, "width": 40}
    processor = transformers.ViTImageProcessorPil(size=size)
    pipe = transformers.pipeline(task, model=model, image_processor=processor, device="cpu")
    with compress(model, PLAN) as compression:
        result = pipe(Image.new("RGB", (50, 60), "teal"))
    assert len(result[0]) == (compression.counts[-1] if task.endswith("extraction") else 2)


def test_the_vision_tower_of_clip():
    row = ("CLIPModel", *REFUSED["two towers"][1:3])
    model = build(row)
    pixels = inputs(model.vision_model)["pixel_values"]
    with compress(model.vision_model, PLAN) as compression, torch.no_grad():
        model.get_image_features(pixels)
        model(input_ids=torch.ones(2, 5, dtype=torch.long), pixel_values=pixels)
    assert compression.counts == [19, 16, 16, 16]


def test_class_attention_asks_for_fused_attention():
    plan = Plan({0: 3}, ClassAttention())
    fused = build(FAMILIES["vit"])
    eager = build(FAMILIES["vit"], attn_implementation="eager")
    with compress(fused, plan) as compression:
        run(fused)
    assert compression.counts == [23] * 4
    with compress(eager, plan), pytest.raises(InputError, match='attn_implementation="sdpa"'):
        run(eager)


# Those that take the same number of tokens of every image after the last block.
EVEN = {"ijepa", "siglip", "siglip 2", "aimv2", "videomae", "vjepa 2", "idefics 3", "smolvlm"}


@pytest.mark.parametrize("family", FAMILIES)
def test_with_a_budget_per_image_each_runs_as_it_does_alone(family):
    model = build(FAMILIES[family], torch.float64)
    [photos] = list(inputs(model, batch=4).values())[:1]
    for number, photo in enumerate(photos):
        photo[..., photo.shape[-1] * (4 - number) // 4 :] = 0
    fixed = Plan({0: 0.3, 1: 0.3}, Redundancy("block"))
    if family in EVEN:
        with pytest.raises(InputError, match="level does not go with this model"):
            adapt(model, fixed, photos)
        return
    with compress(model, adapt(model, fixed, photos)) as compression, torch.no_grad():
        together, kept = first(model(photos)), compression.kept
        lengths = compression.lengths.tolist()
        assert len(set(lengths)) > 1
        for row, length in enumerate(lengths):
            alone = first(model(photos[row : row + 1]))[0]
            assert torch.equal(kept[row, :length], compression.kept[0])
            torch.testing.assert_close(together[row][: len(alone)], alone)
