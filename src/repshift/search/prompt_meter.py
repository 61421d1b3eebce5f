"""How far a plan moves a model's next word from the dense model's, on a set of prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from repshift.compress import compress
from repshift.errors import InputError
from repshift.measure.fidelity import kl_by_image, top_class
from repshift.search.fidelity_meter import check_same

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Float
    from torch import Tensor, nn

    from repshift.vision_language.plan import VisionLanguagePlan


class PromptMeter:
    """The dense model as teacher of plans: what it expects after the last word of each prompt."""

    def __init__(self, model: nn.Module, prompts: Sequence[Mapping[str, Any]]) -> None:
        self.model, self.prompts = model, prompts
        with torch.inference_mode():
            self.dense = [next_word(model, prompt) for prompt in prompts]
        if not all(logits.isfinite().all() for logits in self.dense):
            raise InputError("the dense model gives NaN or infinity on the prompts to search on")
        if model.training:
            with torch.inference_mode():
                check_same(next_word(model, prompts[0]), self.dense[0])

    def compare(
        self, plan: VisionLanguagePlan, start: int, stop: int
    ) -> tuple[list[float], list[bool]]:
        """Of every row of some prompts: KL(dense || compressed) in nats, and the same top-1."""
        losses, same = [], []
        with compress(self.model, plan), torch.inference_mode():
            for dense, prompt in zip(self.dense[start:stop], self.prompts[start:stop], strict=True):
                given = next_word(self.model, prompt)
                # What is not a number is no word: farther than any.
                losses += kl_by_image(dense, given).nan_to_num(torch.inf).tolist()
                same += (top_class(dense) == top_class(given)).tolist()
        return losses, same


def next_word(model: nn.Module, prompt: Mapping[str, Any]) -> Float[Tensor, "B V"]:
    """The logits of the word that comes after each row of a prompt."""
    logits = getattr(model(**prompt, logits_to_keep=1), "logits", None)
    if logits is None:
        raise InputError(
            f"{type(model).__name__} gives no logits; pass the model that writes words, such as "
            "LlavaForConditionalGeneration"
        )
    return logits[:, -1].float().cpu()


def check_prompts(prompts: Sequence[Mapping[str, Any]]) -> None:
    """``InputError`` if these are not two prompts or more, each of which ends with a word."""
    if not isinstance(prompts, list | tuple) or len(prompts) < 2:
        found = len(prompts) if isinstance(prompts, list | tuple) else type(prompts).__name__
        raise InputError(f"prompts are a list of 2 or more, as a processor gives them; got {found}")
    for number, prompt in enumerate(prompts):
        if not hasattr(prompt, "keys") or not isinstance(prompt.get("input_ids"), torch.Tensor):
            raise InputError(
                f"prompt {number} is a {type(prompt).__name__} without a tensor input_ids; pass "
                'what the processor gives with return_tensors="pt"'
            )
        mask = prompt.get("attention_mask")
        if isinstance(mask, torch.Tensor) and mask.ndim == 2 and not mask[:, -1].all():
            raise InputError(
                f"prompt {number} is padded on the right, where its next word would come; set "
                'processor.tokenizer.padding_side = "left"'
            )
