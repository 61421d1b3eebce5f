"""Attach a plan to a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from repshift.adapters import EncoderSpec, describe
from repshift.compression import Compression
from repshift.errors import InputError
from repshift.resnet.compression import ResNetCompression
from repshift.resnet.reductions import GridReduction
from repshift.resnet.spec import ResNetSpec
from repshift.runtime.attachment import Hook
from repshift.vision_language.compression import VisionLanguageCompression
from repshift.vision_language.families import is_vision_language, parts_of
from repshift.vision_language.plan import VisionLanguagePlan

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from repshift.plan import Plan
    from repshift.scores import Need

PROMPT_NEEDS: frozenset[Need] = frozenset({"cells", "frame before", "text", "last query"})


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
        _check_stages(plan, spec)
    else:
        check_plan(plan, spec)
    detach_earlier((model, *spec.blocks))
    if isinstance(spec, ResNetSpec):
        return ResNetCompression(model, plan, spec)
    return Compression(model, plan, spec)


def detach_earlier(parts: Iterable[nn.Module]) -> None:
    """Take off what was attached to one of the parts before."""
    hooks = [hook for part in parts for hook in part._forward_pre_hooks.values()]
    for earlier in {hook.attachment for hook in hooks if isinstance(hook, Hook)}:
        earlier.detach()


def check_plan(plan: Plan, spec: EncoderSpec) -> None:
    """``InputError`` with the reason if ``plan`` does not fit the encoder."""
    needs = plan.required()
    if plan.drop and isinstance(plan.reduction, GridReduction):
        raise InputError(
            f"{plan.reduction} takes rows and columns out of the feature maps of a ResNet; this "
            "model is made of blocks of tokens: use prune, merge, tome or vid-tldr"
        )
    if plan.adaptive and plan.drop:
        _check_ends(spec)
    if missing := needs & {"branch", "stage entry", "grid"}:
        raise InputError(
            f"{plan.score} needs the {' and '.join(sorted(missing))} of a ResNet's stage, and this "
            "model is made of blocks of tokens; use another score, such as shift(mlp)"
        )
    if missing := needs & PROMPT_NEEDS:
        raise InputError(
            f"{plan.score} needs the {' and '.join(sorted(missing))} of a vision-language model's "
            "prompt; use another score, such as shift(mlp), or a VisionLanguagePlan"
        )
    if "class token" in needs and not spec.class_token:
        raise InputError(f"{plan.score} needs a class token and this model has none")
    if "mixer" in needs and not spec.mixers:
        raise InputError(f"{plan.score} needs Mamba blocks, and those of this model are none")
    for block in plan.drop:
        if block >= len(spec.blocks):
            raise InputError(
                f"the plan drops at block {block}; this model has {len(spec.blocks)} blocks, "
                f"0 to {len(spec.blocks) - 1}"
            )
        if "middle" in needs and spec.mixers:
            raise InputError(
                f"{plan.score} needs the stream between attention and MLP, and Mamba blocks have "
                "neither; use the site mixer"
            )
        if "middle" in needs and spec.norm2[block] is None:
            raise InputError(
                f"{plan.score} needs the stream between attention and MLP, and block {block} runs "
                "them side by side; use the site block"
            )
        if plan.before_mlp and not (spec.mlp and spec.mlp[block] and spec.norm2[block]):
            raise InputError(
                f"{plan.reduction} acts between attention and MLP, and block {block} does not add "
                "its MLP to the stream there; use merge or prune, which act after the block"
            )


def _check_ends(spec: EncoderSpec) -> None:
    """Whether images of different lengths can go through all blocks, and what follows, at once."""
    reason = None
    if spec.mixers or spec.inner_tokens:
        reason = "its blocks read a sequence from end to end, where one image would reach the next"
    elif spec.readers or not (spec.class_token or spec.pooling or spec.packing):
        reason = (
            "what reads its tokens after the last block takes the same number of every image "
            "(neither the class token nor a mean that can leave out padding)"
        )
    if reason:
        raise InputError(f"a level does not go with this model: {reason}")


def _check_stages(plan: Plan, spec: ResNetSpec) -> None:
    if not plan.drop:
        return
    if not isinstance(plan.reduction, GridReduction):
        raise InputError(
            f"{plan.reduction} takes out tokens, and what enters a convolution must stay a "
            "rectangle; use a plan for a ResNet, Plan(drop, reduction=RowsAndColumns()) or "
            "PerRowAndColumn()"
        )
    elsewhere = {"middle", "attention", "keys", "class token", *PROMPT_NEEDS}
    if missing := plan.required() & elsewhere:
        raise InputError(
            f"{plan.score} needs the {' and '.join(sorted(missing))} of a transformer's block, and "
            "a ResNet has none; use shift(block), stream-norm, border or random"
        )
    for stage in plan.drop:
        if stage >= len(spec.stages):
            raise InputError(
                f"the plan drops after stage {stage}; this model has {len(spec.stages)} stages, "
                f"0 to {len(spec.stages) - 1}"
            )
