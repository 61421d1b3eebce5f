"""The forwards of transformers that were read: a new release that changes one fails here."""

import hashlib
import inspect
from pathlib import Path

import transformers
from transformers.integrations import sdpa_attention

from repshift.vision_language import families
from vision_language_models import FAMILIES, build

READ = Path(__file__).parent / "fixtures" / "vision_language_forwards.txt"


def _forwards():
    """Module, class and method of all that the tests and the rows of ``families`` name."""
    found = {}
    for family in FAMILIES:
        core = build(family).model
        language = core.get_submodule(families.FAMILIES[type(core).__name__].language)
        mixers = [
            getattr(layer, "self_attn", None) or layer.linear_attn for layer in language.layers
        ]
        parts = [core, language, *language.layers, *mixers]
        for part in parts:
            names = ["forward", "get_image_features", "get_video_features", "_deepstack_process"]
            for name in names:
                if name in vars(type(part)):
                    function = inspect.unwrap(vars(type(part))[name])
                    found[f"{type(part).__name__}.{name}"] = function
    mixin = transformers.GenerationMixin
    for name in (
        "_prefill",
        "_prepare_multimodal_encoder_kwargs_for_generation",
        "_expand_multimodal_outputs",
        "_update_model_kwargs_for_generation",
    ):
        found[f"GenerationMixin.{name}"] = getattr(mixin, name)
    for name in (
        "create_causal_mask",
        "create_sliding_window_causal_mask",
        "create_recurrent_attention_mask",
        "_preprocess_mask_arguments",
        "find_packed_sequence_indices",
        "sdpa_mask",
    ):
        found[name] = inspect.unwrap(getattr(transformers.masking_utils, name))
    names = ("get_seq_length", "get_query_offset", "get_mask_sizes", "reset", "reorder_cache")
    for name in names:
        found[f"Cache.{name}"] = vars(transformers.cache_utils.Cache)[name]
    for kind in ("DynamicLayer", "DynamicSlidingWindowLayer"):
        found[f"{kind}.update"] = vars(getattr(transformers.cache_utils, kind))["update"]
    found["sdpa_attention_forward"] = sdpa_attention.sdpa_attention_forward
    return {
        name: hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:16]
        for name, function in found.items()
    }


def test_what_was_read_is_what_runs():
    """Read those named again (masks, positions, caches, order of calls), then write the file."""
    read = dict(line.split() for line in READ.read_text().splitlines())
    changed = {name for name, digest in _forwards().items() if read.get(name) != digest}
    assert not changed


def test_every_row_names_a_class():
    known = {*families.FAMILIES, *families.LANGUAGE_MODELS, *families.LANGUAGE_MODELS.values()}
    names = {name for name in known if hasattr(transformers, name)}
    assert set(families.FAMILIES) <= names
    assert set(families.LANGUAGE_MODELS) <= names


if __name__ == "__main__":
    READ.write_text("".join(f"{name} {digest}\n" for name, digest in sorted(_forwards().items())))
