"""Fewer frames of a video: the model that takes them, plans for them, the search, the commands."""

import json

import pytest
import torch
from torch import nn

from models import build
from repshift import InputError, Plan, Shift, compress, search_plan, thin_videos, thinned
from repshift.adapters import describe
from repshift.cli.video import Retrieve
from repshift.evaluation.models.umt.vision import VisionEncoder
from repshift.evaluation.tasks.smaller_input import at_its_frames, fewer_frames
from repshift.evaluation.tasks.variants import Variant
from repshift.measure.flops import count_flops

PATCHES = 4  # of a frame of 16 pixels


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return VisionEncoder(width=24, depth=3, heads=2, patch=8, pool="all").eval()


def entering(model, videos):
    """What the first block is given."""
    given = []
    handle = model.encoder.blocks[0].register_forward_pre_hook(lambda _, args: given.append(*args))
    with torch.no_grad():
        model(videos)
    handle.remove()
    return given[0]


def test_frames_keep_the_positions_that_they_have_among_all(encoder):
    videos = torch.randn(2, 6, 3, 16, 16)
    whole = entering(encoder, videos).unflatten(1, (6, PATCHES))
    twin = thinned(encoder, 3, of=6)
    assert torch.equal(entering(twin, thin_videos(videos, 3)), whole[:, [1, 3, 5]].flatten(1, 2))
    assert torch.equal(entering(encoder, videos), whole.flatten(1, 2))  # as it was
    assert {id(one) for one in twin.parameters()} == {id(one) for one in encoder.parameters()}
    with pytest.raises(InputError, match="for 3 of 6 frames .* given 6; .*thin_videos"):
        twin(videos)


@pytest.mark.parametrize(("count", "places"), [(4, [1, 4, 7, 10]), (1, [6]), (5, [1, 3, 6, 8, 10])])
def test_the_frames_are_those_in_the_middle_of_equal_parts(count, places):
    video = torch.arange(12.0)[None, :, None, None, None].expand(2, 12, 3, 2, 2)
    assert thin_videos(video, count)[0, :, 0, 0, 0].tolist() == places
    assert torch.equal(thin_videos(video, 12), video)


@pytest.mark.parametrize("frames", [0, 7, 2.5, "3", None])
@pytest.mark.usefixtures("unchecked")
def test_so_many_frames_there_are_not(encoder, frames):
    with pytest.raises(InputError, match="frames is .*; expected a whole number from 1 to 6"):
        thinned(encoder, frames, of=6)


def test_a_plan_is_for_so_many_frames(encoder, tmp_path):
    plan = Plan({0: 0.25}, frames=3)
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan != Plan({0: 0.25})
    assert hash(plan) != hash(Plan({0: 0.25}))
    assert plan.identity != Plan({0: 0.25}).identity
    with pytest.raises(InputError, match=r"for 3 frames .* compress repshift.thinned\(model, 3"):
        compress(encoder, plan)
    twin = thinned(encoder, 3, of=6)
    with compress(twin, plan) as compression, torch.no_grad():
        twin(torch.randn(1, 3, 3, 16, 16))
    assert compression.counts == [9, 9, 9]
    with pytest.raises(InputError, match="for 3 frames"):
        compress(thinned(encoder, 2, of=6), plan)


def test_a_model_without_frames_is_refused():
    says = "VisionTransformer has no way to leave out frames of a video"
    with pytest.raises(InputError, match=says):
        compress(build("deit"), Plan({0: 0.2}, frames=3))
    with pytest.raises(InputError, match=says):
        thinned(build("deit"), 3, of=6)


def test_the_rival_costs_what_the_plans_do(encoder):
    videos, plan = torch.randn(1, 6, 3, 16, 16), Plan({0: 0.5}, frames=4)
    own = at_its_frames(Variant("found", plans=(plan,)), encoder, 6)
    with own.attached(encoder, describe(encoder)) as compression, torch.no_grad():
        spent = count_flops(lambda: own.model(own.given(videos)))[0]
    assert compression.counts[-1] == 8
    with torch.no_grad():
        [row] = fewer_frames(encoder, describe(encoder), [plan], videos)
        costs = [
            count_flops(lambda t=t: encoder(videos[:, :t]))[0] for t in range(1, 6)
        ]  # fmt: skip
    nearest = min(range(5), key=lambda at: abs(costs[at] - spent)) + 1
    assert row.identities == [f"dense, {nearest} of 6 frames"]
    assert row.model.encoder.frames == nearest
    assert fewer_frames(encoder, describe(encoder), [], videos[:, :1]) == []


class Pooled(nn.Module):
    """One feature of a video; a model of the user's own around UMT."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, videos):
        return self.inner(videos)[1].flatten(1)


@pytest.mark.usefixtures("unchecked")  # as every search, in test_search.py
def test_a_search_tries_fewer_frames_too(encoder):
    model, videos = Pooled(encoder).eval(), torch.randn(8, 6, 3, 16, 16)
    found = search_plan(
        model, videos, flops=0.5, objective="cosine", methods=["shift(mlp, l2)"], batch_size=4,
        spec=describe(encoder),
    )  # fmt: skip
    tried = {trial.plan.frames for trial in found.tried}
    assert tried == {5, 4, 3}  # half of all patches leave too late
    facts = found.provenance
    assert facts["flops"] <= 0.5
    rival = facts["smaller input"]
    count = rival["frames"]
    twin = thinned(model, count, of=6)
    with torch.no_grad():
        whole = count_flops(lambda: model(videos[:1]))[0]
        costs = {
            t: count_flops(lambda t=t: thinned(model, t, of=6)(thin_videos(videos[:1], t)))[0]
            for t in range(1, 6)
        }
        assert count == min(costs, key=lambda t: abs(costs[t] / whole - facts["flops"]))
        assert rival["flops"] == pytest.approx(costs[count] / whole)
        dense, theirs = model(videos), twin(thin_videos(videos, count))
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))[:4]
    away = 1 - torch.cosine_similarity(dense, theirs)[order].mean()
    assert rival["loss"] == pytest.approx(away.item(), abs=1e-5)
    assert f"the dense model on {count} frames" in found.summary()


@pytest.mark.usefixtures("unchecked")
def test_the_frames_of_one_plan_are_not_those_of_another(encoder):
    plans = [("few", Plan({0: 0.2}, frames=4)), ("all", Plan({0: 0.3}))]
    rows = Retrieve()._rows(describe(encoder), None, plans, [])
    assert [row.plans[0] for row in rows if row.plans] == [plan for _, plan in plans]


def test_the_command_feeds_what_the_plan_is_for(run, tmp_path, monkeypatch):
    monkeypatch.setattr("repshift.evaluation.zoo.clips.files.CLIPS", 2)
    monkeypatch.setattr("repshift.evaluation.tasks.video_bench.ROUNDS", 2)
    Plan({0: 0.5}, Shift(), frames=4).save(tmp_path / "plan.json")
    given = ["--plan", "plan.json", "--workers", 0, "--out", "o"]
    status, _, err = run("answer", *given, "--compare")
    assert (status, "plan.json is for a smaller input; leave out --compare" in err) == (2, True)
    status, _, err = run("answer", *given)
    assert status == 0, err
    rows = json.loads((tmp_path / "o" / "answers.json").read_text())["rows"]
    own = rows[-1]
    assert (own["plan"], own["tokens"]) == ("plan.json, 4 frames", 200)
    assert [row["plan"] for row in rows if row["method"] == "dense, smaller input"] == ["2 frames"]
    status, _, err = run("bench", "--model", "digits-vit", "--plan", "plan.json")
    assert (status, "has no way to leave out frames" in err) == (2, True)
