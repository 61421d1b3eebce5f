"""The paper's score: how far attention, the MLP, the mixer or the whole block moved a token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from repshift.errors import InputError
from repshift.method import check_choice
from repshift.registry import register
from repshift.scores.base import Need, Score, Snapshots
from repshift.shift import Metric, representation_shift

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

Site = Literal["mlp", "attention", "block", "mixer", "branch", "stage"]
Definition = Literal["printed", "update"]


@register
@dataclass(frozen=True)
class Shift(Score):
    """How far a layer moves a token: Representation Shift (arXiv 2508.00367, eq. 4).

    D(F(x), x), for the metrics l2, l1 and cosine (section 3.3).

    ``printed`` takes the paper's equations at their word, where F is the branch before its residual
    is added: mlp D(MLP(LN(x')), x'), attention D(SA(LN(x)), x). ``update`` takes the paper's words,
    the change of the stream: mlp D(x' + MLP(LN(x')), x'). For the block both are D(exit, entry).
    The mixer is the one branch of a Mamba block, where the paper does not say what F is (section
    4.2): printed D(Mixer(norm(x)), x), update D(x + Mixer(norm(x)), x).

    A ResNet has no MLP, and its stages change the number of channels, so that D(F(x), x) over a
    stage needs a reading: ``block`` is D(exit, entry) of the stage's last block, whose shapes
    agree; ``branch`` compares that block's residual branch as mlp does, D(F(x), x) printed and
    D(x + F(x), x) in words; ``stage`` is the change of the channel norm from entry to exit of the
    whole stage (of the L2 or L1 norm, as the metric says).
    """

    name: ClassVar[str] = "shift"
    site: Site = "mlp"
    metric: Metric = "l2"
    definition: Definition = "printed"

    def __post_init__(self) -> None:
        check_choice(self.name, self.site, Site)
        check_choice(self.name, self.metric, Metric)
        check_choice(self.name, self.definition, Definition)

    def _label_values(self) -> list[Any]:
        values = [self.site, self.metric]
        return values if self.definition == "printed" else [*values, self.definition]

    def required(self) -> frozenset[Need]:
        needs: dict[str, frozenset[Need]] = {
            "mlp": frozenset({"middle", "exit"}),
            "attention": frozenset({"entry", "middle"}),
            "block": frozenset({"entry", "exit"}),
            "mixer": frozenset({"entry", "exit", "mixer"}),
            "branch": frozenset({"entry", "branch"}),
            "stage": frozenset({"stage entry", "exit"}),
        }
        return needs[self.site]

    def __call__(self, snapshot: Snapshots) -> Float[Tensor, "B N"]:
        if self.site == "stage":
            return self._change_of_norm(snapshot)
        if self.site == "branch":
            assert snapshot.branch is not None
            assert snapshot.entry is not None
            after = (
                snapshot.branch
                if self.definition == "printed"
                else snapshot.entry + snapshot.branch
            )
            return representation_shift(snapshot.entry, after, self.metric)
        before = snapshot.middle if self.site == "mlp" else snapshot.entry
        after = snapshot.middle if self.site == "attention" else snapshot.exit
        assert before is not None
        assert after is not None
        if self.definition == "printed" and self.site != "block":
            after = after - before
        return representation_shift(before, after, self.metric)

    def _change_of_norm(self, snapshot: Snapshots) -> Float[Tensor, "B N"]:
        if self.metric == "cosine":
            raise InputError("shift(stage) compares norms, which have no cosine; use l2 or l1")
        assert snapshot.stage_entry is not None
        assert snapshot.exit is not None
        before, after = (
            representation_shift(torch.zeros_like(x), x, self.metric)
            for x in (snapshot.stage_entry, snapshot.exit)
        )
        return (after - before).abs()
