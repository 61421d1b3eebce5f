"""What a prompt costs beside time: tokens, FLOPs and key-value memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from repshift.measure.flops import count_flops

if TYPE_CHECKING:
    from repshift.evaluation.tasks.vlm_exam import Example
    from repshift.evaluation.tasks.vlm_rows import Row


@dataclass(frozen=True)
class Cost:
    """Of one prompt.

    Attributes:
        tokens: Of what is seen, those that reach the last layer.
        gflops: Multiply-adds up to the first word, the tower's included.
        kernel: Of the attention.
        cache_mb: Megabytes of keys and values behind the prompt.
    """

    tokens: int
    gflops: float
    kernel: str
    cache_mb: float


@torch.inference_mode()
def measure_cost(exam: Example, row: Row) -> Cost:
    """Of the exam's example under the row's first plan."""
    model, inputs = exam.model(row.kernel), dict(exam.example(row))
    prompts, outputs = len(inputs["input_ids"]), list[Any]()
    # A prompt is read for its last word: logits of the others are computed by no generation.
    inputs |= {"use_cache": True, "logits_to_keep": 1}
    with row.attached(model, row.plans[0] if row.plans else None) as done:
        flops, kernel = count_flops(lambda: outputs.append(model(**inputs)))
        tokens = exam.tokens(inputs)
        if done is not None:
            tokens = sum(list(image.values())[-1] for image in done.counts) // prompts
    cache = getattr(outputs[0], "cache", None) or outputs[0].past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    return Cost(tokens, flops / prompts / 1e9, kernel, held / prompts / 1e6)
