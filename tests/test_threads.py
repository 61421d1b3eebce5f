"""Several threads call one compressed model: each gets what it would get alone."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import resnet_models
import transformers_models
from models import build, images

THREADS, CALLS = 4, 16
DROP = {0: 0.3, 2: 4}


def results(model, compression, photos):
    output = model(photos)
    tell = compression.kept, compression.counts, compression.restore
    features = torch.rand(*compression.kept.shape, 3) if output.ndim == 2 else None
    return (output, *tell[:2], features if features is None else tell[2](features).shape)


def in_threads(compress, model, plan, batches, calls=CALLS):
    """All threads over all batches at once, against the same calls in one thread."""
    with compress(model, plan) as compression, torch.inference_mode():
        alone = [results(model, compression, batch) for batch in batches]

    def work(number):
        wrong = []
        with torch.inference_mode():
            for call in range(calls):
                at = (number + call) % len(batches)
                got, expected = results(model, compression, batches[at]), alone[at]
                same = torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1])
                if not same or got[2:] != expected[2:]:
                    wrong.append((number, call))
        return wrong

    with compress(model, plan) as compression, ThreadPoolExecutor(THREADS) as pool:
        assert [fault for wrong in pool.map(work, range(THREADS)) for fault in wrong] == []


# Batches of different sizes, so that one thread's state never fits another's tokens.
def batches(of=images):
    return [of(batch) for batch in (1, 2, 3)]


@pytest.mark.parametrize(
    "method",
    ["shift(mlp, l2)", "shift(mlp, l2) + merge", "tome", "class-attention", "redundancy(keys)"],
)
@pytest.mark.parametrize("family", ["deit distilled", "dinov3"])
def test_timm(plain, family, method):
    in_threads(plain.compress, build(family), plain.Plan.from_method(method, DROP), batches())


def test_budgets_per_image(plain):
    plan = plain.Plan({0: plain.Level(0.2), 2: plain.Level(0.3)})
    in_threads(plain.compress, build("dinov2 registers"), plan, batches())


@pytest.mark.parametrize("family", ["vit", "dinov3"])
@pytest.mark.parametrize("method", ["shift(mlp, l2)", "tome"])
def test_transformers(plain, family, method):
    model = transformers_models.build(transformers_models.FAMILIES[family])
    model.return_dict = False

    class Tokens(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, photos):
            return self.model(photos).last_hidden_state[:, 0]

    whole = Tokens()
    given = [torch.randn(batch, 3, 40, 40) for batch in (1, 2, 3)]
    spec = __import__("repshift.adapters", fromlist=["describe"]).describe(model)
    in_threads(
        lambda one, plan: plain.compress(one, plan, spec), whole,
        plain.Plan.from_method(method, DROP), given,
    )  # fmt: skip


@pytest.mark.parametrize("method", ["shift(mlp, l2)", "tome"])
def test_torchvision(plain, method):
    vit = pytest.importorskip("torchvision.models.vision_transformer")
    model = vit.VisionTransformer(40, 8, 4, 2, 32, 64, num_classes=7).eval()
    torch.nn.init.normal_(model.heads.head.weight, std=0.2)
    given = [torch.randn(batch, 3, 40, 40) for batch in (1, 2, 3)]
    in_threads(plain.compress, model, plain.Plan.from_method(method, DROP), given)


@pytest.mark.parametrize("score", ["block", "branch", "stage"])
def test_rows_and_columns_of_a_resnet(plain, score):
    model = resnet_models.build("timm bottleneck")
    plan = plain.Plan({0: 0.3, 2: 1}, plain.Shift(score), plain.RowsAndColumns())

    with plain.compress(model, plan) as compression, torch.inference_mode():
        given = batches(resnet_models.images)
        alone = [(model(one), compression.kept, compression.grids) for one in given]

    def work(number):
        wrong = 0
        with torch.inference_mode():
            for call in range(CALLS // 2):
                at = (number + call) % len(given)
                output = model(given[at])
                same = torch.equal(output, alone[at][0])
                same &= torch.equal(compression.kept, alone[at][1])
                wrong += not same or compression.grids != alone[at][2]
        return wrong

    with plain.compress(model, plan) as compression, ThreadPoolExecutor(THREADS) as pool:
        assert sum(pool.map(work, range(THREADS))) == 0


@pytest.mark.parametrize("method", ["shift(mlp, l2)", pytest.param("tome", marks=pytest.mark.slow)])
def test_compiled(plain, method):
    model = build("deit distilled", depth=1)
    torch._dynamo.reset()
    plan = plain.Plan.from_method(method, {0: 0.3})
    given = [images(batch) for batch in (2, 3)]
    with plain.compress(model, plan) as compression, torch.inference_mode():
        alone = [results(model, compression, batch) for batch in given]
        compiled = torch.compile(model, fullgraph=True, backend="eager", dynamic=False)
        for batch in given:
            compiled(batch)

        def work(number):
            with torch.inference_mode():
                for call in range(20):
                    at = (number + call) % 2
                    output, expected = compiled(given[at]), alone[at]
                    torch.testing.assert_close(output, expected[0])
                    assert torch.equal(compression.kept, expected[1])
                    assert compression.counts == expected[2]

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(work, range(THREADS)))


def test_a_thread_that_has_called_nothing_is_told_so(plain):
    model = build("deit")
    with plain.compress(model, plain.Plan(DROP)) as compression, torch.inference_mode():
        model(images())
        with ThreadPoolExecutor(1) as pool, pytest.raises(plain.InputError, match="this thread"):
            pool.submit(lambda: compression.counts).result()


@pytest.mark.parametrize("method", ["shift(mlp, l2)", "tome"])
def test_replicas_of_data_parallel(plain, method):
    """As nn.DataParallel makes them, each with weights of its own, in a thread of its own."""

    def replica(model, weights):
        copies = {one: one._replicate_for_data_parallel() for one in model.modules()}
        for one, twin in copies.items():
            twin._modules = {name: copies.get(child) for name, child in one._modules.items()}
            twin._parameters = {}
            for name in one._parameters:
                twin._parameters[name] = weights[one][name]
        return copies[model]

    model, plan = build("deit"), plain.Plan.from_method(method, DROP)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.7)
    pairs = list(zip(model.modules(), other.modules(), strict=True))
    photos = [images(2), images(3)]
    with torch.inference_mode():
        with plain.compress(model, plan):
            first = model(photos[0])
        with plain.compress(other, plan):
            second = other(photos[1])
        with plain.compress(model, plan):
            replicas = [
                replica(model, {one: one._parameters for one, _ in pairs}),
                replica(model, {one: twin._parameters for one, twin in pairs}),
            ]

            def work(at):
                with torch.inference_mode():
                    return [replicas[at](photos[at]) for _ in range(20)]

            with ThreadPoolExecutor(2) as pool:
                found = list(pool.map(work, range(2)))
    assert all(torch.equal(output, first) for output in found[0])
    assert all(torch.equal(output, second) for output in found[1])


def test_backward_with_checkpointing_in_two_threads(plain):
    model = build("rope mixed", torch.float64).train()
    model.set_grad_checkpointing()
    plan = plain.Plan.from_method("shift(mlp, l2) + merge", DROP)

    def gradient(photos):
        photos = photos.clone().requires_grad_()
        model(photos).square().sum().backward()
        return photos.grad

    given = [images(2, torch.float64), images(3, torch.float64)]
    with plain.compress(model, plan):
        alone = [gradient(photos) for photos in given]
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(lambda at: [gradient(given[at]) for _ in range(5)], range(2)))
    for expected, gradients in zip(alone, found, strict=True):
        for one in gradients:
            torch.testing.assert_close(one, expected)
