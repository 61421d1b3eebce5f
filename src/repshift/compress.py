"""Attach a plan to a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from repshift.adapters import EncoderSpec, check_model, describe
from repshift.compression import Compression
from repshift.errors import InputError
from repshift.input_frames import check_frames
from repshift.plan_fit import check_plan, check_stages, detach_earlier
from repshift.plan_given import as_plan
from repshift.resnet.compression import ResNetCompression
from repshift.resnet.spec import ResNetSpec
from repshift.vision_language.compression import VisionLanguageCompression
from repshift.vision_language.families import is_vision_language, parts_of
from repshift.vision_language.plan import VisionLanguagePlan

if TYPE_CHECKING:
    from torch import nn

    from repshift.plan_given import PlanLike


@overload
def compress(
    model: nn.Module, plan: VisionLanguagePlan, spec: None = None
) -> VisionLanguageCompression: ...
@overload
def compress(model: nn.Module, plan: PlanLike, spec: ResNetSpec) -> ResNetCompression: ...
@overload
def compress(model: nn.Module, plan: PlanLike, spec: EncoderSpec | None = None) -> Compression: ...
def compress(
    model: nn.Module,
    plan: PlanLike | VisionLanguagePlan,
    spec: EncoderSpec | ResNetSpec | None = None,
) -> Compression | ResNetCompression | VisionLanguageCompression:
    """Make ``model`` drop tokens as ``plan`` says, from the next call on.

    Nothing is copied or trained and no weight changes. Another call changes the plan: what was
    attached before is taken off. Undo it with ``detach()`` or use the result in a ``with`` block.
    Several threads may call the model.

    Args:
        model: One of timm, transformers, torchvision, open_clip, or your own with a ``spec``.
        plan: What to drop: a ``Plan``, its name (``"deit"``), its schedule (``"0:0.2,3:20"``), its
            file, or a dict of what is dropped by block. A ResNet loses rows and columns of its
            feature maps, by a plan whose reduction is ``RowsAndColumns`` or ``PerRowAndColumn``; a
            vision-language model loses visual tokens by a ``VisionLanguagePlan``.
        spec: Names the parts of a model of your own; those of the libraries are recognised.

    Returns:
        What the last forward left behind: counts, kept tokens, and the way back to all of them.

    Raises:
        InputError: If tokens of the model cannot be dropped or the plan does not fit it.
    """
    check_model(model)
    if isinstance(plan, VisionLanguagePlan):
        if spec is not None:
            raise InputError("a vision-language model takes no spec; leave it out")
        parts = parts_of(model)
        detach_earlier((model, parts.core, parts.language, *parts.layers))
        return VisionLanguageCompression(model, plan, parts)
    if spec is None and is_vision_language(model):
        raise InputError(
            f"{type(model).__name__} is a vision-language model; pass a VisionLanguagePlan, such "
            "as VisionLanguagePlan(prompt=Keep(0.25)) or VisionLanguagePlan.load(a file)"
        )
    plan = as_plan(plan)
    check_frames(plan, model)
    if spec is None:
        spec = describe(model)
    if not isinstance(spec, EncoderSpec | ResNetSpec):
        raise InputError(f"the spec is {spec!r}; expected an EncoderSpec or a ResNetSpec")
    if isinstance(spec, ResNetSpec):
        check_stages(plan, spec)
    else:
        check_plan(plan, spec)
    detach_earlier((model, *spec.blocks))
    if isinstance(spec, ResNetSpec):
        return ResNetCompression(model, plan, spec)
    return Compression(model, plan, spec)
