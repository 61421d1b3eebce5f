"""A score or a reduction of one's own that is wrong says so, where its results would be wrong."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

import resnet_models
from models import build, images
from repshift import (
    InputError,
    Keep,
    Merge,
    Plan,
    Prune,
    Reduction,
    Score,
    Shift,
    VisionLanguagePlan,
    compress,
)
from repshift.resnet.reductions import RowsAndColumns
from vision_language_models import build as build_vlm
from vision_language_models import inputs

pytestmark = pytest.mark.usefixtures("unchecked")
# Each in place of the norms [B, N] of the tokens.
SCORES = {
    "one image's": (lambda norms: norms[:1], "float32 [1, 36]"),
    "without prefix": (lambda norms: norms[:, 1:], "float32 [3, 35]"),
    "one more axis": (lambda norms: norms[..., None], "float32 [3, 36, 1]"),
    "whole numbers": (lambda norms: norms.long(), "int64 [3, 36]"),
    "a list": (lambda norms: norms.tolist(), "list"),
}
# Each in place of what pruning returns.
STEPS = {
    "a tuple": (lambda step: (step.kept, step.dropped), "returned a tuple; expected a Step"),
    "more": (
        lambda step: replace(step, kept=step.kept[:, :-1]),
        "returned kept [3, 25]; expected [3, 26] of 36 tokens",
    ),
    "the class token": (
        lambda step: replace(step, kept=torch.cat((step.dropped[:, :1], step.kept[:, 1:]), 1),
                             dropped=torch.cat((step.kept[:, :1], step.dropped[:, 1:]), 1)),
        "did not keep the 1 prefix tokens first",
    ),
    "one twice": (
        lambda step: replace(step, dropped=torch.cat((step.kept[:, :1], step.dropped[:, 1:]), 1)),
        "kept and dropped that do not hold each token once",
    ),
    "an index": (lambda step: replace(step, target=step.target + 26), "a target that is no place"),
    "a weight": (
        lambda step: replace(step, share=torch.full(step.dropped.shape, 5.0)),
        "a share below 0 or above 1",
    ),
}  # fmt: skip


@torch.no_grad()
def refused(*methods):
    """What a forward of three images says that drops 10 of 36 tokens by these."""
    model = build("deit")
    with compress(model, Plan({1: 10}, *methods)), pytest.raises(InputError) as told:
        model(images(3))
    return str(told.value)


@pytest.mark.parametrize("kind", SCORES)
def test_a_score_that_is_not_one_number_a_token(kind):
    spoil, found = SCORES[kind]

    @dataclass(frozen=True)
    class Own(Score):
        name: ClassVar[str] = "own"

        def __call__(self, snapshot):
            return spoil(snapshot.tokens.norm(dim=-1))

    assert f"the score own returned {found}; expected one floating number" in refused(Own())


@dataclass(frozen=True)
class Logarithm(Score):
    name: ClassVar[str] = "logarithm"
    sign: float = 1.0

    def __call__(self, snapshot):
        norms = snapshot.tokens.norm(dim=-1)
        return self.sign * (norms - norms.min(1, keepdim=True).values).log()


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("reduction", [Prune(), Merge()])
def test_a_score_that_is_infinite(reduction, sign):
    """-inf would be taken for padding, which is merged nowhere, inf for what never leaves."""
    assert refused(Logarithm(sign), reduction).startswith(
        f"block 1: the score logarithm({sign}) is infinite for a token, and a score must be finite"
    )
    model = resnet_models.build("torchvision basic")
    plan, says = Plan({0: 0.3}, Logarithm(sign), RowsAndColumns()), "stage 0: .* is infinite"
    with compress(model, plan), pytest.raises(InputError, match=says):
        model(resnet_models.images(2))


@torch.no_grad()
def test_a_score_of_a_prompt_that_is_infinite():
    model = build_vlm("llava")
    plan = VisionLanguagePlan(prompt=Keep(0.5, Logarithm()))
    message = "infinite for a token between connector and language model"
    with compress(model, plan), pytest.raises(InputError, match=message):
        model(**inputs(model, "llava"))


@torch.no_grad()
def test_what_never_leaves_may_have_any_score():
    @dataclass(frozen=True)
    class Own(Score):
        name: ClassVar[str] = "own"

        def __call__(self, snapshot):
            return snapshot.guard(snapshot.tokens.norm(dim=-1))

    model = build("deit")
    with compress(model, Plan({1: 10}, Own())) as compression:
        model(images(3))
    assert compression.counts[-1] == 26


def test_a_need_that_is_nothing():
    @dataclass(frozen=True)
    class Own(Score):
        name: ClassVar[str] = "own"
        needs: ClassVar[frozenset[str]] = frozenset({"exitt"})

    with pytest.raises(InputError, match="own needs 'exitt', which is nothing that can be capture"):
        Plan({1: 10}, Own())


@pytest.mark.parametrize("kind", STEPS)
def test_a_reduction_whose_step_is_none(kind):
    spoil, fault = STEPS[kind]

    @dataclass(frozen=True)
    class Own(Reduction):
        name: ClassVar[str] = "own"

        def __call__(self, snapshot, scores, drop):
            return spoil(Prune()(snapshot, scores, drop))

    told = refused(Shift(), Own())
    assert told.startswith("the reduction own, which was to drop 10 tokens, ")
    assert fault in told


@torch.no_grad()
def test_a_score_of_a_grid_too():
    @dataclass(frozen=True)
    class Own(Score):
        name: ClassVar[str] = "own"

        def __call__(self, snapshot):
            return snapshot.tokens.norm(dim=-1)[:1]

    model, plan = resnet_models.build("torchvision basic"), Plan({0: 0.3}, Own(), RowsAndColumns())
    says = "the score own returned float32 .1, "
    with compress(model, plan), pytest.raises(InputError, match=says):
        model(resnet_models.images(2))
