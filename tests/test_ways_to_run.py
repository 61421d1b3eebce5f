"""A compressed model is an ordinary module: precision, gradients, copies and compilers."""

import copy
import pickle

import pytest
import torch

from models import SAMPLE, build, images, plan_for
from repshift import InputError, Plan, Random, compress

ROTARY = ("dinov3", "rope mixed")
each_family = pytest.mark.parametrize("family", SAMPLE)

# RMSNorm in float32 under autocast, whatever repshift does.
rms_norm_warns = pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")


def error(output, truth):
    return (output.double() - truth).abs().max().item()


@each_family
@rms_norm_warns
@pytest.mark.parametrize("autocast", [False, True])
def test_low_precision_costs_no_more_than_it_costs_the_dense_model(family, autocast):
    model, photos = build(family, torch.float64), images(5, torch.float64)
    dtype = torch.float32 if autocast else torch.bfloat16
    low = copy.deepcopy(model).to(dtype)
    errors = []
    for drop in ({}, {0: 0.3, 2: 0.2}):
        plan = Plan(drop, Random())  # the same tokens in every precision
        with compress(model, plan), compress(low, plan), torch.no_grad():
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                output = low(photos.to(dtype))
            errors.append(error(output, model(photos)))
    dense, compressed = errors
    assert output.dtype == torch.bfloat16
    assert compressed <= 1.5 * dense + 0.02


@each_family
@rms_norm_warns
@pytest.mark.parametrize("autocast", [False, True])
def test_the_shift_drops_as_planned_in_low_precision(family, autocast):
    dtype = torch.float32 if autocast else torch.bfloat16
    model, photos = build(family, dtype), images(5, dtype)
    half = torch.autocast("cpu", torch.bfloat16, enabled=autocast)
    with compress(model, plan_for(family)) as compression, torch.no_grad(), half:
        output = model(photos)
    assert compression.counts[-1] == model.num_prefix_tokens + 21
    assert output.isfinite().all()


@each_family
def test_inference_mode_changes_nothing(family):
    model, photos = build(family), images()
    with compress(model, plan_for(family)) as compression:
        expected, kept = model(photos).detach(), compression.kept
        with torch.inference_mode():
            assert torch.equal(model(photos), expected)
            assert torch.equal(compression.kept, kept)


def gradients(model, *losses):
    model.zero_grad()
    sum(losses).backward()
    return {
        name: weight.grad.clone()
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }


def learn(model, *batches):
    outputs = [model(photos) for photos in batches]
    return outputs, gradients(model, *(output.square().sum() for output in outputs))


@each_family
def test_gradient_checkpointing_gives_the_same_output_and_gradients(family):
    model, photos = build(family, torch.float64).train(), images(5, torch.float64)
    with compress(model, plan_for(family)) as compression:
        plain, kept = learn(model, photos), compression.kept
        model.set_grad_checkpointing()
        checkpointed = learn(model, photos)
        torch.testing.assert_close(checkpointed, plain)
        assert compression.counts[-1] == model.num_prefix_tokens + 21
        assert torch.equal(compression.kept, kept)


@pytest.mark.parametrize("family", [f for f in SAMPLE if f not in ROTARY])
@pytest.mark.parametrize("early_stop", [True, False])
def test_two_forwards_may_precede_one_backward_under_checkpointing(family, early_stop):
    model = build(family, torch.float64).train()
    batches = images(2, torch.float64), images(5, torch.float64)
    whole = torch.utils.checkpoint.set_checkpoint_early_stop(early_stop)
    with compress(model, plan_for(family)) as compression, whole:
        plain = learn(model, *batches)
        kept = compression.kept
        model.set_grad_checkpointing()
        torch.testing.assert_close(learn(model, *batches), plain)
        assert torch.equal(compression.kept, kept)


@pytest.mark.parametrize("family", ROTARY)
def test_two_forwards_before_one_backward_are_refused_where_positions_are_gone(family):
    model = build(family, torch.float64).train()
    batches = images(2, torch.float64), images(2, torch.float64)
    model.set_grad_checkpointing()
    with (
        compress(model, plan_for(family)),
        pytest.raises(InputError, match="run backward before the next forward"),
    ):
        learn(model, *batches)


@each_family
def test_a_deep_copy_is_compressed_on_its_own(family):
    model, photos = build(family), images()
    with torch.no_grad():
        dense = model(photos)
        compression = compress(model, plan_for(family))
        expected = model(photos)
        twin = copy.deepcopy(model)
        compression.detach()
        assert torch.equal(twin(photos), expected)
        assert torch.equal(model(photos), dense)
        compress(twin, Plan({})).detach()
        assert torch.equal(twin(photos), dense)


@each_family
def test_a_pickle_keeps_the_plan_at_work(family):
    model, photos = build(family), images()
    with torch.no_grad():
        dense = model(photos)
        with compress(model, plan_for(family)) as compression:
            expected = model(photos)
            model, compression = pickle.loads(pickle.dumps((model, compression)))
        with pytest.raises(InputError, match="call the model first"):
            _ = compression.counts
        assert torch.equal(model(photos), expected)
        assert compression.counts[-1] == model.num_prefix_tokens + 21
        compression.detach()
        assert torch.equal(model(photos), dense)


@pytest.mark.parametrize(
    "family", [pytest.param("siglip", marks=pytest.mark.lowest), *sorted({*SAMPLE} - {"siglip"})]
)
def test_the_whole_forward_compiles_to_one_graph(family, plain):
    given = plan_for(family, {0: 0.3})
    model, plan = build(family, depth=2), plain.Plan.from_json(given.to_json())
    torch._dynamo.reset()
    # What comes behind the graph, and that a batch of another size fits, is the same for all.
    backend = "aot_eager" if family == "siglip" else "eager"
    sizes = (5, 2) if family == "deit distilled" else (5,)
    with plain.compress(model, plan) as compression, torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend=backend)
        for batch in sizes:
            photos = images(batch)
            expected, kept, counts = model(photos), compression.kept, compression.counts
            torch.testing.assert_close(compiled(photos), expected)
            assert torch.equal(compression.kept, kept)
            assert compression.counts == counts


def test_code_compiled_without_a_plan_is_not_taken_with_one_nor_the_other_way(plain):
    twin, model, photos = build("deit", depth=2), build("deit", depth=2), images(2)
    torch._dynamo.reset()
    with torch.no_grad():
        dense = model(photos)
        torch.compile(twin, backend="eager")(photos)
        compiled = torch.compile(model, backend="eager")
        assert torch.equal(compiled(photos), dense)
        with plain.compress(model, plain.Plan({0: 0.3})) as compression:
            expected = model(photos)
            assert torch.equal(compiled(photos), expected)
            assert compression.counts == [26] * 2
        assert not torch.equal(expected, dense)
        assert torch.equal(compiled(photos), dense)


# The graph is that of torch.compile, above.
@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=() if family in ("siglip", "rope mixed") else pytest.mark.slow)
        for family in SAMPLE
    ],
)
def test_export_with_a_dynamic_batch_runs_at_any_batch_size(family, plain):
    given = plan_for(family, {0: 0.3})
    model, plan = build(family, depth=2), plain.Plan.from_json(given.to_json())
    with plain.compress(model, plan), torch.no_grad():
        dynamic = ({0: torch.export.Dim("batch")},)
        program = torch.export.export(model, (images(5),), dynamic_shapes=dynamic).module()
        for batch in (1, 3):
            photos = images(batch)
            torch.testing.assert_close(program(photos), model(photos))
