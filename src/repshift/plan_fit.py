"""Whether a plan fits a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repshift.errors import InputError
from repshift.resnet.reductions import GridReduction
from repshift.runtime.attachment import Hook

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from repshift.adapters.spec import EncoderSpec
    from repshift.plan import Plan
    from repshift.resnet.spec import ResNetSpec
    from repshift.scores import Need

PROMPT_NEEDS: frozenset[Need] = frozenset({"cells", "frame before", "text", "last query"})


def detach_earlier(parts: Iterable[nn.Module]) -> None:
    """Take off what was attached to one of the parts before, unless its `with` block still runs."""
    parts = list(parts)
    hooks = [hook for part in parts for hook in part._forward_pre_hooks.values()]
    found = {hook.attachment for hook in hooks if isinstance(hook, Hook)}
    for earlier in found:
        if earlier.reads_part and all(earlier._model is not part for part in parts):
            raise InputError(
                "the plan of a vision-language model is at work in this tower, and would go on as "
                "if its own tokens had left; detach() that, and compress the whole again by "
                "VisionLanguagePlan(tower=...)"
            )
    if any(earlier._entered for earlier in found):
        raise InputError(
            "the model is compressed by a `with` block that still runs, and its rest would run "
            "dense; leave that block first"
        )
    for earlier in found:
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
        raise InputError(
            f"{plan.score} needs a class token and this model has none (where its first token is "
            "one, the spec must say class_token=True); use another score"
        )
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
        if plan.before_mlp and not spec.mlp and not spec.mixers:
            raise InputError(
                f"{plan.reduction} acts between attention and MLP, and the spec does not name the "
                "MLPs; pass EncoderSpec(..., mlp=[...]), the modules whose output is added to the "
                "stream, or use merge or prune, which act after the block"
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


def check_stages(plan: Plan, spec: ResNetSpec) -> None:
    """``InputError`` with the reason if ``plan`` does not fit the ResNet."""
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
