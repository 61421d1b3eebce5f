"""Figures that the papers print, and what the measures promise."""

import hashlib
import importlib.metadata
from contextlib import contextmanager, nullcontext

import pytest
import timm
import torch
from scipy.stats import binomtest
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

import models
import repshift
from repshift import ClassAttention, Plan, Shift, compress
from repshift.evaluation.report import plot
from repshift.evaluation.report.pareto import pareto, winners
from repshift.evaluation.tasks.bench import Bench, Row
from repshift.evaluation.tasks.smaller_input import LABEL
from repshift.measure.digest import digest
from repshift.measure.environment import versions
from repshift.measure.fidelity import accuracy, feature_fidelity, logit_fidelity
from repshift.measure.flops import _varlen_flops, count_flops
from repshift.measure.memory import peak_memory
from repshift.measure.speed import interleave
from repshift.measure.wilson import wilson_interval
from repshift.runtime.attention import EagerAttention

CPU = torch.device("cpu")


@pytest.mark.parametrize(("right", "count"), [(2, 2), (0, 1), (3, 5), (250, 300)])
def test_the_interval_of_a_share_is_as_scipy_gives_it(right, count):
    expected = binomtest(right, count).proportion_ci(method="wilson")
    answers = torch.arange(count) < right
    mean, low, high = wilson_interval(answers.float())
    assert mean == pytest.approx(right / count)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert low < high


@pytest.mark.parametrize(
    ("size", "dense", "compressed"),
    [("tiny", 1.26, 0.80), ("small", 4.6, 2.99), ("base", 17.6, 11.5)],
)
def test_the_deit_plan_costs_what_the_paper_prints(size, dense, compressed):
    with torch.device("meta"):
        model = timm.create_model(f"deit_{size}_patch16_224").eval()
        images = torch.empty(1, 3, 224, 224)
    flops, _ = count_flops(lambda: model(images))
    assert flops / 1e9 == pytest.approx(dense, rel=0.01)
    with compress(model, Plan.paper("deit")) as compression:
        flops, _ = count_flops(lambda: model(images))
    assert flops / 1e9 == pytest.approx(compressed, rel=0.01)
    assert [compression.counts[block] for block in (0, 3, 6)] == [158, 127, 102]


def test_flops_of_a_model_that_hands_a_parameter_to_a_module():
    """Its pooling attends from a learnt query; torch's own tracker of modules fails there."""
    model, photos = models.build("siglip"), models.images(batch=2)
    flops, kernel = count_flops(lambda: model(photos))
    assert flops == 2 * count_flops(lambda: model(photos[:1]))[0] > 0
    assert kernel == "flash"


@pytest.mark.parametrize("norm_first", [False, True])
def test_pytorchs_layer_as_one_operator_counts_as_its_parts_do(norm_first):
    layer = nn.TransformerEncoderLayer(8, 2, 20, batch_first=True, norm_first=norm_first).eval()
    tokens = torch.randn(3, 9, 8)
    one, kernel = count_flops(lambda: layer(tokens))
    layer.linear1.register_forward_hook(lambda *_: None)  # takes the one operator away
    assert (one, kernel) == (count_flops(lambda: layer(tokens))[0], "multi-head")


def test_flops_on_cpu_and_on_meta_agree_and_the_kernel_is_told():
    model = timm.create_model("deit_tiny_patch16_224", depth=3).eval()
    images = torch.randn(1, 3, 224, 224)
    fused, kernel = count_flops(lambda: model(images))
    assert kernel == "flash"
    with EagerAttention():
        eager, kernel = count_flops(lambda: model(images))
    assert kernel == "eager"
    assert eager == fused
    with compress(model, Plan({1: 0.5}, score=ClassAttention())):
        assert count_flops(lambda: model(images))[1] == "eager + flash"
    with compress(model, Plan({1: 0.5}, score=Shift())):
        assert count_flops(lambda: model(images))[1] == "flash"


def test_peak_memory_counts_what_is_held_at_once():
    def run():
        first = torch.empty(1_000_000, dtype=torch.uint8)
        del first
        return torch.empty(2_000_000, dtype=torch.uint8), torch.empty(500_000, dtype=torch.uint8)

    assert peak_memory(run, CPU) == 2_500_000


def test_speed_is_taken_in_turn_and_inside_each_context():
    order, inside = [], []

    @contextmanager
    def slow():
        inside.append("slow")
        yield
        inside.pop()

    def run():
        order.append(inside[-1] if inside else "fast")
        for _ in range(20 if inside else 1):
            torch.randn(64, 64) @ torch.randn(64, 64)

    times = interleave({"fast": nullcontext, "slow": slow}, run, rounds=4, seconds=1e-4)
    assert {name: len(values) for name, values in times.items()} == {"fast": 4, "slow": 4}
    assert min(times["slow"]) > min(times["fast"])
    changes = [name for i, name in enumerate(order) if i == 0 or name != order[i - 1]]
    assert len(changes) > 4


def test_each_contender_may_run_something_of_its_own():
    ran = []
    runs = {"one": lambda: ran.append(1), "two": lambda: ran.append(2)}
    interleave(dict.fromkeys(runs, nullcontext), runs, rounds=1, seconds=1e-6)
    assert set(ran) == {1, 2}
    assert ran == sorted(ran)


def test_on_cuda_time_is_taken_between_events(monkeypatch):
    """A stand-in for the device: every event tells the time at which it was recorded."""
    clock, device, current = [0.0], torch.device("cuda", 1), []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            assert current == [device]
            self.at = clock[0]

        def synchronize(self):
            self.done = True

        def elapsed_time(self, later):
            assert later.at >= self.at
            return 1e3 * (later.at - self.at)

    @contextmanager
    def on(chosen):
        current.append(chosen)
        yield
        current.clear()

    def run(seconds):
        clock[0] += seconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "device", on)
    runs = {"slow": lambda: run(0.25), "fast": lambda: run(0.125)}
    times = interleave(dict.fromkeys(runs, nullcontext), runs, device=device, rounds=3, seconds=1.0)
    assert times == {"slow": [0.25] * 3, "fast": [0.125] * 3}
    # One call to warm up, one to see how long it takes, then a second's worth.
    assert clock[0] == 3 * (6 * 0.25 + 10 * 0.125)


def test_attention_that_forms_its_map_is_called_eager():
    query = torch.randn(1, 2, 8, 4)
    with sdpa_kernel(SDPBackend.MATH):
        _, kernel = count_flops(lambda: F.scaled_dot_product_attention(query, query, query))
    assert kernel == "eager"


def test_flops_of_images_end_to_end_are_those_of_each():
    cu_seqlens = torch.tensor([0, 3, 10], dtype=torch.int32)
    parts = torch.randn(3, 10, 2, 4)
    counted = _varlen_flops(*parts, cu_seqlens, cu_seqlens, 7, 7, out_val=None)
    alone = sum(sdpa_flop_count(*[(1, 2, count, 4)] * 3) for count in (3, 7))
    assert counted == alone


def test_fidelity_of_a_model_to_itself_is_perfect_and_to_another_is_not():
    dense, other = torch.randn(50, 10), torch.randn(50, 10)
    same = logit_fidelity(dense, dense)
    assert (same.value, same.kl) == (1.0, pytest.approx(0.0, abs=1e-12))
    different = logit_fidelity(dense, other)
    p, q = dense.double().softmax(-1), other.double().softmax(-1)
    assert different.kl == pytest.approx((p * (p / q).log()).sum(-1).mean().item())
    assert different.value == (dense.argmax(-1) == other.argmax(-1)).double().mean().item()
    assert feature_fidelity(dense, 3 * dense).value == pytest.approx(1.0)
    assert feature_fidelity(dense, -dense).value == pytest.approx(-1.0)
    assert accuracy(torch.eye(4), torch.tensor([0, 1, 2, 0])) == 0.75


def bench_of(*rows):
    """A bench of methods with their plan, speed-up and accuracy."""
    costs = {"kernel": "", "tokens": 1, "gflops": 1.0, "peak_mb": 1.0, "spread": 0.0}
    rows = [
        Row(
            method, plan, images_per_s=1 / speedup, speedup_vs_eager=None,
            speedup_vs_fused=speedup, flop_share=1.0, fidelity=0.0, kl=None, accuracy=accuracy,
            **costs,
        )
        for method, plan, speedup, accuracy in rows
    ]  # fmt: skip
    return Bench(
        rows, {"model": "m"}, [], "title", quality="accuracy", criterion="accuracy", scale=100.0,
        reference="dense",
    )  # fmt: skip


def test_the_pareto_front_is_drawn_along_the_speed_up_that_the_table_shows():
    pairs = [(1.0, 0.9), (1.2, 0.9), (1.4, 0.7), (1.3, 0.6), (1.1, 0.95)]
    bench = bench_of(*((str(speed), "", speed, right) for speed, right in pairs))
    assert [r.speedup_vs_fused for r in pareto(bench)] == [1.1, 1.2, 1.4]
    assert winners(bench)[-1] == "up to 1.40x: 1.4, accuracy 70.0 %"


def test_smaller_inputs_are_one_curve_from_the_dense_model_on(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plot, "save", lambda figure, *_: drawn.append(figure))
    bench = bench_of(
        ("dense, eager attention", "", 0.8, 0.9), ("dense, fused attention", "", 1.0, 0.9),
        (LABEL, "28 pixels", 1.9, 0.5), (LABEL, "42 pixels", 1.3, 0.8), ("tome", "0:5", 1.4, 0.85),
    )  # fmt: skip
    plot.plot_pareto(bench, tmp_path / "pareto.png")
    lines = {line.get_label(): line for line in drawn[0].axes[0].get_lines()}
    assert lines[LABEL].get_xdata().tolist() == [1.0, 1.3, 1.9]
    assert lines[LABEL].get_ydata().tolist() == [90, 80, 50]
    assert lines["tome"].get_xdata().tolist() == [1.4]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.randn(5, 4)[2:].T,
        torch.arange(10)[::2],
        torch.randn(3).bfloat16(),
        torch.tensor(3.0),
        torch.empty(0),
    ],
    ids=lambda tensor: str(list(tensor.shape)),
)
def test_a_digest_is_that_of_the_bytes_in_order(tensor):
    data = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    assert digest([tensor, tensor]) == hashlib.sha256(2 * data).hexdigest()[:16]


def test_a_bare_source_tree_knows_its_version(monkeypatch):
    installed = importlib.metadata.distribution

    def distribution(name):
        if name == "repshift":
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr("importlib.metadata.distribution", distribution)
    found = versions("timm", "no-such-library")
    assert list(found) == ["python", "torch", "timm", "repshift"]
    assert found["repshift"] == repshift.__version__


def test_operators_made_of_others_cost_what_pytorch_s_own_counter_says():
    conv, linear, x = nn.Conv2d(3, 8, 3, 2), nn.Linear(49, 5), torch.randn(2, 3, 15, 15)

    def run():
        y = linear(conv(x).flatten(2))  # [2, 8, 5]
        return torch.einsum("bci,bcj->bij", y, y) @ y[:, :5], F.conv1d(y, y.new_ones(1, 8, 3))

    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        run()
    assert count_flops(run) == (counter.get_total_flops() / 2, "none")
    products = 2 * 8 * 49 * 27, 2 * 8 * 5 * 49, 2 * 5 * 5 * 8, 2 * 5 * 5 * 5, 2 * 3 * 8 * 3
    assert count_flops(run)[0] == sum(products)
