"""A vision-language model of the shape of Qwen2.5-VL-3B: tower, prefill and words, in turn."""

from functools import partial

import vision_language
from vision_language import COLUMNS

__all__ = ["COLUMNS", "NEEDS", "cases"]

NEEDS = ("transformers",)


def cases(setting):
    shape = "tiny" if setting.tiny else "3B"
    return {
        f"{images} image{'s' * (images > 1)}": partial(
            vision_language.measure,
            shape,
            images,
            device=setting.device,
            dtype=setting.dtype,
            rounds=min(3, setting.rounds),
            seconds=setting.seconds,
        )
        for images in ((1,) if setting.tiny else (1, 4))
    }
