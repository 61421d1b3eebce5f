"""Attach a plan to a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from repshift.adapters import EncoderSpec, describe
from repshift.compression import Compression
from repshift.errors import InputError
from repshift.plan_fit import check_plan, check_stages, detach_earlier
from repshift.resnet.compression import ResNetCompression
from repshift.resnet.spec import ResNetSpec
from repshift.vision_language.compression import VisionLanguageCompression
from repshift.vision_language.families import is_vision_language, parts_of
from repshift.vision_language.plan import VisionLanguagePlan

if TYPE_CHECKING:
    from torch import nn

    from repshift.plan import Plan


@overload
def compress(
    model: nn.Module, plan: VisionLanguagePlan, spec: None = None
) -> VisionLanguageCompression: ...
@overload
def compress(model: nn.Module, plan: Plan, spec: ResNetSpec) -> ResNetCompression: ...
@overload
def compress(model: nn.Module, plan: Plan, spec: EncoderSpec | None = None) -> Compression: ...
def compress(
    model: nn.Module,
    plan: Plan | VisionLanguagePlan,
    spec: EncoderSpec | ResNetSpec | None = None,
) -> Compression | ResNetCompression | VisionLanguageCompression:
    """Make ``model`` drop tokens as ``plan`` says, from the next call on.

    Nothing is copied or trained and no weight changes; a plan attached before is replaced. Undo it
    with ``detach()`` or use the result in a ``with`` block. Several threads may call the model.

    Args:
        model: One of timm, transformers, torchvision, open_clip, or your own with a ``spec``.
        plan: What to drop. A ResNet loses rows and columns of its feature maps, by a plan whose
            reduction is ``RowsAndColumns`` or ``PerRowAndColumn``; a vision-language model loses
            visual tokens by a ``VisionLanguagePlan``.
        spec: Names the parts of a model of your own; those of the libraries are recognised.

    Returns:
        What the last forward left behind: counts, kept tokens, and the way back to all of them.

    Raises:
        InputError: If tokens of the model cannot be dropped or the plan does not fit it.
    """
    if isinstance(plan, VisionLanguagePlan):
        if spec is not None:
            raise InputError("a vision-language model takes no spec; leave it out")
        parts = parts_of(model)
        detach_earlier((model, parts.core, parts.language, *parts.layers))
        return VisionLanguageCompression(model, plan, parts)
    if spec is None and is_vision_language(model):
        raise InputError(
            f"{type(model).__name__} is a vision-language model; pass a VisionLanguagePlan, such "
            "as VisionLanguagePlan(prompt=Keep(0.25))"
        )
    if spec is None:
        spec = describe(model)
    if isinstance(spec, ResNetSpec):
        check_stages(plan, spec)
    else:
        check_plan(plan, spec)
    detach_earlier((model, *spec.blocks))
    if isinstance(spec, ResNetSpec):
        return ResNetCompression(model, plan, spec)
    return Compression(model, plan, spec)
