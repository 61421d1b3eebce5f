"""The tower inside a vision-language model: tokens that leave there, and the features they leave.

The model goes on with as many features as before, since what reads them counts them or asks for the
whole grid. Those of dropped tokens are restored from kept ones; ``kept`` tells them, so that their
columns can leave the prompt.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from repshift.adapters import EncoderSpec, describe
from repshift.compression import Compression
from repshift.errors import InputError
from repshift.plan import Plan
from repshift.plan_fit import check_plan, detach_earlier
from repshift.runtime.attachment import Attachment, Hook, ReplacedMethod
from repshift.vision_language.connectors import connector_of, feature_marks, reader_of, token_marks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from jaxtyping import Bool, Float
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

    from repshift.scores import Score


class Tower(Attachment):
    """A plan at work in the vision tower of a vision-language model, until it is detached.

    ``kept`` and ``scores`` are of the calling thread's last features of each modality, ``"image"``
    and ``"video"``: one entry for each row of all features, image after image, as the model gets
    them from ``get_image_features`` and ``get_video_features``. (Beams repeat the features, not
    these.) ``block`` is where the score is told.

    Args:
        model: The vision-language model, or what it holds as ``model``.
        plan: What is dropped inside the tower, in units that the connector makes one feature of.
            None: nothing.
        score: Is told of all tokens that enter ``block``, whatever is dropped there.
        block: Where; the last one that the features are taken from if left out.

    Raises:
        InputError: If the model is not known, or the plan does not fit its tower.
    """

    reads_part: ClassVar[bool] = True

    def __init__(
        self,
        model: nn.Module,
        plan: Plan | None = None,
        score: Score | None = None,
        block: int | None = None,
    ) -> None:
        reader = reader_of(model)
        super().__init__(reader)
        connector = connector_of(reader)
        self._tower: Any = getattr(reader, connector.tower)
        self._layered = connector.layers
        spec, side = describe(self._tower), connector.side(reader)
        assert isinstance(spec, EncoderSpec)
        if side > 1:
            spec = replace(spec, unit=side**2, cells=True)
        self._depth = len(spec.blocks)
        self.block = self._last(self._layers({})) if block is None else block
        plan = plan or Plan({})
        check_plan(plan, spec)
        if score is not None:
            check_plan(Plan({self.block: 0}, score), spec)
        if plan.adaptive and spec.cells:
            raise InputError(
                "a level does not go with this model, whose connector merges square cells of the "
                "grid; use shares or counts"
            )
        self._refuse_unread(plan, self._layers({}))
        detach_earlier((self._tower, *spec.blocks))
        watch = {} if score is None else {self.block: score}
        self.compression = Compression(self._tower, plan, spec, watch)
        self._attach(self._parts(reader, connector.spreads))

    @property
    def kept(self) -> Mapping[str, Bool[Tensor, " R"]]:
        """By modality: which rows of the features are of tokens that were kept.

        A row that was mixed of several by interpolation is kept if half of its weight is. Newlines
        and class tokens are always kept.
        """
        return {name: marks[:, 0] >= 0.5 for name, marks in self._marks.items()}

    @property
    def scores(self) -> Mapping[str, Float[Tensor, " R"]]:
        """By modality: the score of each row, the mean over the tokens that it was made of.

        inf for newlines and class tokens, -inf where ``kept`` is False.
        """
        kept = self.kept
        return {
            name: marks[:, 1].masked_fill(~kept[name], -torch.inf)
            for name, marks in self._marks.items()
            if self.compression.watch
        }

    def detach(self) -> None:
        """Take everything off; the model is as it was."""
        super().detach()
        if hasattr(self, "compression"):
            self.compression.detach()

    @property
    def _marks(self) -> dict[str, Float[Tensor, "R 2"]]:
        if getattr(self._local, "marks", None) is None:
            self._local.marks = {}
        marks: dict[str, Float[Tensor, "R 2"]] = self._local.marks
        return marks

    def _parts(
        self, reader: nn.Module, spreads: Sequence[str]
    ) -> Iterator[RemovableHandle | ReplacedMethod]:
        # Found by whoever would compress the tower by itself.
        yield self._tower.register_forward_pre_hook(Hook(self, self._nothing))
        if not self.compression.spec.packing:
            yield self._tower.register_forward_hook(Hook(self, self._lay_back))
        for modality in ("image", "video"):
            if hasattr(reader, name := f"get_{modality}_features"):
                yield ReplacedMethod(self, reader, name, _Features(self, modality).run)
        for name in spreads:
            yield ReplacedMethod(self, reader, name, self._spread)

    def _nothing(self, *_: object) -> None:
        pass

    def _layers(self, given: Mapping[str, Any]) -> list[int]:
        """Which hidden states the features are taken from, 0 before the first block."""
        if not self._layered:
            return [self._depth]
        layers = given.get("vision_feature_layer")
        if layers is None:
            layers = self._model.config.vision_feature_layer  # type: ignore[union-attr]
        layers = [layers] if isinstance(layers, int) else list(layers)
        return [layer % (self._depth + 1) for layer in layers]

    def _last(self, layers: list[int]) -> int:
        return max(layers) - 1

    def _refuse_unread(self, plan: Plan, layers: list[int]) -> None:
        last = self._last(layers)
        for block in plan.acting:
            if block > last:
                raise InputError(
                    f"the plan drops after block {block} of the tower, and the features are taken "
                    f"after block {last}, so nothing would leave; drop earlier, or in the prompt"
                )

    def _lay_back(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """All tokens at their places, in whatever the connector may read."""
        if self.compression._trace is None or not self.compression._trace.steps:
            return output
        restore = self.compression.restore
        output["last_hidden_state"] = restore(output.last_hidden_state)
        states = getattr(output, "hidden_states", None)
        if states is not None:
            output["hidden_states"] = tuple(
                state if number == 0 or state is None else restore(state, number - 1)
                for number, state in enumerate(states)
            )
        return output

    def _read(self, modality: str, given: Mapping[str, Any], run: Callable[[], Any]) -> Any:
        """The features of one modality, and the marks of their rows."""
        local = self._local
        if getattr(local, "reading", False):  # the one method may call the other
            return run()
        layers = self._layers(given)
        self._refuse_unread(self.compression.plan, layers)
        local.reading, local.spread, local.last = True, [], self._last(layers)
        try:
            output = run()
            marks = self._token_marks() if not local.spread else torch.cat(local.spread)
        finally:
            local.reading, spread, local.spread = False, local.spread, []
        self._marks[modality] = feature_marks(output, marks, bool(spread))
        return output

    def _token_marks(self) -> Float[Tensor, "n P 2"]:
        return token_marks(self.compression, self._local.last, self.block)

    def _spread(
        self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """What lays features out, once more for their marks."""
        if getattr(self._local, "reading", False):
            given = inspect.signature(method).bind(*args, **kwargs).arguments
            marks = self._token_marks()
            name, features = next(iter(given.items()))
            if isinstance(features, torch.Tensor):
                self._local.spread += [method(**{**given, name: marks})]
            else:
                tiles = [len(entry) for entry in features]
                line = marks.new_tensor([1.0, torch.inf])
                new = {**given, name: marks.split(tiles)}
                if given.get("image_newline") is not None:
                    new["image_newline"] = line
                self._local.spread += method(**new)[0]
        return method(*args, **kwargs)


class _Features:
    """A method that gives features."""

    def __init__(self, tower: Tower, modality: str) -> None:
        self.tower, self.modality = tower, modality

    def run(self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = inspect.signature(method).bind(*args, **kwargs).arguments
        given = {**given, **given.get("kwargs", {})}
        return self.tower._read(self.modality, given, lambda: method(*args, **kwargs))
