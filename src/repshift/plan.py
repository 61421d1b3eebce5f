"""The plan: after which blocks how many tokens leave, by which score, and what becomes of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repshift import plan_text
from repshift.errors import InputError, quoted
from repshift.files import write_text
from repshift.numbers import finite, whole
from repshift.presets import RESNET, SHIFT, VID_TLDR
from repshift.reductions import Prune, Reduction, ToMe, VidTLDR
from repshift.resnet.reductions import RowsAndColumns
from repshift.schedules import block_macs, fewest_for, inflected, late, spread
from repshift.scores import AttentionEntropy, Score, Shift
from repshift.sequence.amounts import Count, Level, amounts_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from repshift.scores import Need
    from repshift.sequence.amounts import Amount


@dataclass(frozen=True)
class Plan:
    """Where tokens are dropped, how many, by which score, and what becomes of them.

    Attributes:
        drop: By block, counted from 0, what is dropped after it: a share below 1 of the patch
            tokens that are left (of n, ``floor(share * n)``), a number of tokens, or a ``Level``,
            by which every image drops what it can spare. Prefix tokens (class, distillation,
            registers) are not counted and never dropped, nor is padding. Of a ResNet, by stage, a
            share or a number of the rows, and as much of the columns.
        score: The lowest are dropped. If left out, the reduction's default score.
        reduction: What becomes of dropped tokens; of a ResNet ``RowsAndColumns`` or
            ``PerRowAndColumn``.
        input_size: Pixels of a side of the images that the plan is for; None: those of the model.
            ``repshift.resized`` makes the model that takes them.
        frames: The same of frames of videos, by ``repshift.thinned``; None: all.
        provenance: How the plan was found, as its file says; it changes nothing, and what is
            derived from the plan has none.
    """

    drop: Mapping[int, float | int | Level]
    score: Score = None  # type: ignore[assignment]  # the reduction's own
    reduction: Reduction = field(default_factory=Prune)
    input_size: int | None = None
    frames: int | None = None
    provenance: Any = field(default=None, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        amounts = amounts_of(self.drop)
        object.__setattr__(self, "_amounts", amounts)
        plain = {at: one if isinstance(one, Level) else one.value for at, one in amounts.items()}
        object.__setattr__(self, "drop", plain)
        if self.score is None and isinstance(self.reduction, Reduction):
            object.__setattr__(self, "score", self.reduction.default_score)
        if not isinstance(self.score, Score) or not isinstance(self.reduction, Reduction):
            raise InputError(
                f"a plan takes a Score and a Reduction, got {type(self.score).__name__} and "
                f"{type(self.reduction).__name__}; write for example Plan(drop, score=Shift())"
            )
        self.reduction.check(self.score, self.adaptive)
        for name in ("input_size", "frames"):
            if (given := getattr(self, name)) is not None:
                object.__setattr__(self, name, whole(given, name, 1))

    def __str__(self) -> str:
        return f"{self.method} at {self.schedule or 'no block'}"

    def __hash__(self) -> int:
        drop = tuple(self.drop.items())
        return hash((drop, self.score, self.reduction, self.input_size, self.frames))

    @property
    def adaptive(self) -> bool:
        """Whether somewhere the scores decide how many tokens of an image are dropped."""
        return any(self.amount(block).by_level for block in self.drop)

    @property
    def acting(self) -> list[int]:
        """The blocks where something is dropped."""
        return [block for block, amount in self.drop.items() if amount]

    def amount(self, block: int) -> Amount:
        """What is dropped after ``block``; a count of 0 where nothing is."""
        amounts: Mapping[int, Amount] = self._amounts  # type: ignore[attr-defined]
        return amounts.get(block, Count(0))

    @property
    def method(self) -> str:
        """The label of score and reduction: ``shift(mlp, l2) + merge``; a score alone prunes."""
        if not self.reduction.scored:
            return str(self.reduction)
        label = f"{self.score} + {self.reduction}" if self.reduction != Prune() else str(self.score)
        return f"{label}, adaptive" if self.adaptive else label

    def required(self) -> frozenset[Need]:
        """What of a block must be captured where tokens leave."""
        scored = self.score.required() if self.reduction.scored else frozenset()
        return scored | self.reduction.needs

    @property
    def before_mlp(self) -> bool:
        """Whether tokens leave between attention and MLP instead of after the MLP."""
        return self.reduction.before_mlp and "exit" not in self.required()

    @property
    def schedule(self) -> str:
        """The drops as the command line writes them, ``0:0.2,3:0.2``."""
        return ",".join(f"{block}:{amount}" for block, amount in self.drop.items())

    def leaving(
        self,
        block: int,
        patches: int,
        what: str = "patch tokens at block",
        protected: int = 0,
    ) -> int:
        """How many of ``patches`` patch tokens, or of what is named, are dropped at ``block``.

        ``protected`` tokens stand among them that are not counted (see ``Reduction.most``).
        """
        count = self.amount(block).of(patches)
        if self.reduction.at_most_half:
            count = min(count, self.reduction.most(patches, protected))
        if count >= patches > 0:
            raise InputError(
                f"the plan drops {count} of the {patches} {what} {block}; at least one must stay"
            )
        return count

    @classmethod
    def paper(cls, name: str) -> Plan:
        """A plan of the papers: ``deit``, ``umt-retrieval``, ``umt-qa``, ``resnet``, ``vim``.

        vid-TLDR's own are called by data set and size of UMT: ``vid-tldr/msrvtt-b16``.
        """
        if name in VID_TLDR:
            return cls(VID_TLDR[name], AttentionEntropy(), VidTLDR())
        if name == "resnet":
            return cls(RESNET, reduction=RowsAndColumns())
        if name not in SHIFT:
            raise InputError(
                f"unknown plan {quoted(name)}; the papers' are {', '.join(SHIFT)}, resnet, and "
                "vid-tldr/ with data set and size, such as vid-tldr/msrvtt-b16"
            )
        return cls(SHIFT[name], Shift("mixer") if name == "vim" else Shift())

    @classmethod
    def late(
        cls,
        depth: int,
        leaving: int,
        power: float | int = 1,
        score: Score | None = None,
        reduction: Reduction | None = None,
    ) -> Plan:
        """``leaving`` tokens over ``depth`` blocks, the later the more: r(l) ~ (l / L)^power.

        Learned schedules are often late. It is no rule: measure. Power 0 is the constant schedule.
        None leaves after the last block, where nothing is saved.

        >>> Plan.late(12, 99, power=2).schedule
        '1:1,2:2,3:3,4:5,5:7,6:9,7:13,8:16,9:19,10:24'
        """
        return cls(spread(leaving, late(depth, power)), score or Shift(), reduction or Prune())

    @classmethod
    def tome(
        cls,
        depth: int,
        r: float | int,
        inflection: float | int = 0,
        score: Score | None = None,
        reduction: Reduction | None = None,
    ) -> Plan:
        """ToMe's schedule ``(r, inflection)``: on average ``r`` tokens leave each block.

        Their numbers lie on a straight line (``repshift.schedules.inflected``). No more than half
        of the patch tokens leave a block at once, so the last ones may lose fewer. A list of ToMe
        is the plan ``Plan(dict(enumerate(r)), reduction=ToMe())``.

        Source: the code of ToMe (arXiv 2210.09461); its "decreasing schedule" is inflection -1.

        >>> Plan.tome(12, 16, -1).schedule
        '0:32,1:29,2:26,3:23,4:20,5:17,6:14,7:11,8:8,9:5,10:2'

        Args:
            depth: How many blocks the model has.
            r: How many tokens leave each block on average.
            inflection: -1 from 2 r down to none, 0 the same in every block, 1 from none up to 2 r.
            score: For a ``reduction`` that asks one.
            reduction: What becomes of dropped tokens, ToMe if left out.

        Raises:
            InputError: If ``depth`` is below 1, ``r`` negative or not whole, or ``inflection``
                outside [-1, 1].
        """
        numbers = enumerate(inflected(depth, r, inflection))
        drop = {block: number for block, number in numbers if number}
        return cls(drop, score or Shift(), reduction or ToMe())

    @classmethod
    def for_flops(
        cls,
        share: float | int,
        *,
        depth: int,
        patches: int,
        width: int,
        prefix: int = 1,
        mlp_ratio: float | int = 4,
        power: float | int = 1,
        score: Score | None = None,
        reduction: Reduction | None = None,
    ) -> Plan:
        """The late plan that costs at most ``share`` of the FLOPs of the dense blocks.

        One token fewer would cost more than that. Counted are the blocks as ``block_macs`` does,
        with all tokens of a block in its attention and its MLP; ``repshift.search_plan`` counts
        what really runs. For DeiT-S:

        >>> Plan.for_flops(0.75, depth=12, patches=196, width=384).schedule
        '0:2,1:4,2:6,3:8,4:10,5:12,6:14,7:15,8:18,9:20,10:22'
        """
        patches, width = whole(patches, "patches", 1), whole(width, "width", 1)
        prefix, mlp_ratio = whole(prefix, "prefix", 0), finite(mlp_ratio, "mlp_ratio")

        def plan(leaving: int) -> Plan:
            return cls.late(depth, leaving, power, score, reduction)

        def cost(leaving: int) -> float:
            counts = plan(leaving).entering(depth, patches)
            return sum(block_macs(prefix + count, width, mlp_ratio) for count in counts)

        return plan(fewest_for(share, cost, patches - 1, power))

    def entering(self, depth: int, patches: int) -> list[int]:
        """Patch tokens that enter each of ``depth`` blocks, where ``patches`` enter the first."""
        counts = [patches]
        for block in range(depth - 1):
            counts.append(counts[-1] - self.leaving(block, counts[-1]))
        return counts

    def to_json(self) -> str:
        """JSON text that ``from_json`` reads back to an equal plan."""
        known = {} if self.provenance is None else {"provenance": self.provenance}
        return json.dumps(self._form() | known, indent=2)

    def save(self, path: Path | str) -> None:
        """Write a JSON file, whole or not at all; ``InputError`` if no ``load`` could read it."""
        plan_text.check_registered(self.score, self.reduction)
        write_text(Path(path), self.to_json())

    @property
    def identity(self) -> str:
        """One line by which results of this plan are found again.

        Its JSON, and of methods that are not built in the digest of the file they stand in.
        """
        return json.dumps(self._form() | plan_text.code_of(self.score, self.reduction))

    def _form(self) -> dict[str, Any]:
        sizes = {"input_size": self.input_size, "frames": self.frames}
        return plan_text.to_form(self.drop, self.score, self.reduction, **sizes)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan; all but ``drop`` may be left out."""
        parts, provenance = plan_text.read_json(text)
        return cls(**parts).found(provenance)

    @classmethod
    def load(cls, path: Path | str) -> Plan:
        """Read a plan's file, as ``save`` and ``repshift search`` write it."""
        return plan_text.read_file(path, cls.from_json)

    def found(self, provenance: Any) -> Plan:
        """The same plan, with how it was found."""
        plan = replace(self)
        object.__setattr__(plan, "provenance", provenance)
        return plan

    @classmethod
    def from_method(cls, label: str, drop: Mapping[int, float | int | Level]) -> Plan:
        """Inverse of ``method`` where no level is in it.

        A reduction alone takes the default score, if it asks one.
        """
        return cls(drop, **plan_text.read_label(label))

    @classmethod
    def from_schedule(cls, text: str) -> Plan:
        """Read ``0:0.2,3:level(0.2),6:20``: block, colon, share below 1, level or whole number."""
        return cls(plan_text.read_schedule(text))
