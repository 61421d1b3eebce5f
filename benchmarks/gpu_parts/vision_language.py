"""A vision-language model of the shape of Qwen2.5-VL-3B: tower, prefill and words, in turn."""

from functools import partial

from vision_language import COLUMNS, measure

__all__ = ["COLUMNS", "NEEDS", "cases"]

NEEDS = ("transformers",)


def cases(setting):
    shape, counts = ("tiny", (1,)) if setting.tiny else ("3B", (1, 4))
    return {
        f"{images} image{'s' * (images > 1)}": partial(measure, shape, images, setting.brief)
        for images in counts
    }
