"""A plan at work on a vision-language model, and what its last prompt left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from repshift.errors import InputError
from repshift.runtime.attachment import Hook
from repshift.vision_language.checks import check_plan, is_end
from repshift.vision_language.decoder import DeepStackSite, LayerSite
from repshift.vision_language.engine import VisionLanguageEngine
from repshift.vision_language.model import ModelSite
from repshift.vision_language.prompt import PromptSite
from repshift.vision_language.record import Kept
from repshift.vision_language.tower import Tower

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from jaxtyping import Float, Int
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

    from repshift.runtime.attachment import ReplacedMethod
    from repshift.vision_language.families import Parts
    from repshift.vision_language.plan import VisionLanguagePlan
    from repshift.vision_language.record import CacheBytes, Record


class VisionLanguageCompression(VisionLanguageEngine):
    """A plan at work on a vision-language model; made by ``compress``.

    What it tells is of the last prompt that the calling thread gave the model, and of the words
    that were written after it. Images are counted over all rows of the batch, then videos.
    """

    def __init__(self, model: nn.Module, plan: VisionLanguagePlan, parts: Parts) -> None:
        super().__init__(model, plan, parts)
        check_plan(self)
        # First, so that what reads the features here sees what the tower makes of them.
        asked = plan.prompt.score if plan.prompt and plan.prompt.of_tower else None
        if plan.tower is not None or asked is not None:
            self.tower = Tower(parts.core, plan.tower, asked)
        try:
            self._attach(self._sites())
        except BaseException:
            self.detach()
            raise

    def detach(self) -> None:
        """Take everything off; the model is as it was."""
        super().detach()
        if self.tower is not None:
            self.tower.detach()

    @property
    def counts(self) -> list[dict[str, int]]:
        """By image, how many tokens each place kept: ``image``, ``prompt``, ``layer 2``."""
        return self._last().counts

    @property
    def kept(self) -> Kept:
        """By image, which cells of its grid reached the end: ``kept[0]``, ``kept.mask(0)``."""
        record = self._last()
        return Kept(record.layout, next(reversed(record.left.values()), None))

    def kept_after(self, place: str) -> Kept:
        """By image, which cells were left after a place, named as in ``counts``."""
        record = self._last()
        if place not in record.left:
            places = ", ".join(record.left) or "none, since it had no image"
            raise InputError(f"nothing left the last prompt at {place!r}; its places are {places}")
        return Kept(record.layout, record.left[place])

    @property
    def columns(self) -> Int[Tensor, "B K"]:
        """For each row of the prompt's output, its place in the dense prompt.

        -1 where a row of the batch keeps fewer than another and is filled up.
        """
        columns = self._last().columns
        if columns is None:
            raise InputError("the last prompt had no image, so all of its tokens stay")
        return columns

    @property
    def sizes(self) -> Float[Tensor, "B K"]:
        """For each row of the prompt's output, from how many tokens it was merged."""
        columns, sizes = self.columns, self._last().sizes
        return (columns >= 0).float() if sizes is None else sizes.masked_fill(columns < 0, 0)

    @property
    def cache_bytes(self) -> CacheBytes:
        """Key-value memory after the last forward, and what the dense model's would be."""
        return self._last().bytes

    def _last(self) -> Record:
        record = self._record
        if record is None:
            raise InputError("no prompt has been read under this plan in this thread yet")
        return record

    def _sites(self) -> Iterator[RemovableHandle | ReplacedMethod]:
        if self._model is not self.parts.core:
            yield self._model.register_forward_pre_hook(Hook(self, self._ask), with_kwargs=True)
        yield from ModelSite(self).attach()
        yield from PromptSite(self).attach()
        yield from DeepStackSite(self).attach()
        for index in range(len(self.parts.layers)):
            yield from LayerSite(self, index).attach()

    def _ask(self, _: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        labels, kept = kwargs.get("labels"), kwargs.get("logits_to_keep")
        if labels is None and (kept is None or (isinstance(kept, int) and kept in (0, 1))):
            return
        ids, config = kwargs.get("input_ids", args[0] if args else None), self.parts.core.config
        tokens = [getattr(config, name) for _, name in self.parts.family.tokens]
        if ids is not None and not any(bool((ids == token).any()) for token in tokens):
            return
        if isinstance(kept, int) and kept > 1 and self.plan.reads_words:
            raise InputError(
                f"the last {kept} tokens may be guesses (assisted or lookup decoding), and this "
                "plan's score reads the words of the prompt; leave logits_to_keep and "
                "assistant_model out, or use a score that does not, such as shift(block)"
            )
        if labels is not None:
            raise InputError(
                "labels stand for all tokens of the dense prompt, and fewer come out; call the "
                "model without labels, and compare its logits with labels gathered by "
                "compression.columns"
            )
        if ids is not None and not is_end(kept, ids, kwargs.get("attention_mask"), tokens):
            raise InputError(
                "logits_to_keep counts the tokens of the dense prompt, of which fewer come out; "
                "ask for tokens behind the last image and before any padding, counted from the "
                "end (5, or torch.tensor([-5, -1])), or leave it out and find the logits by "
                "compression.columns"
            )
