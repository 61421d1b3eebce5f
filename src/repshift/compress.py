"""Attach a plan to a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repshift.compression import Compression, Hook
from repshift.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from repshift.adapters.spec import EncoderSpec
    from repshift.plan import Plan


def compress(model: nn.Module, plan: Plan, spec: EncoderSpec | None = None) -> Compression:
    """Make ``model`` drop tokens as ``plan`` says, from the next call on.

    Nothing is copied or trained and no weight changes; a plan attached before is replaced. ``spec``
    names the parts of a model of your own; models of timm, transformers, torchvision and open_clip
    are recognised. Undo it with ``detach()`` or use the result in a ``with`` block. Compress first,
    then ``torch.compile``.

    Raises ``InputError`` if the model cannot lose tokens or the plan does not fit it.
    """
    if spec is None:
        from repshift.adapters import describe

        spec = describe(model)
    _check(plan, spec)
    hooks = [hook for part in (model, *spec.blocks) for hook in part._forward_hooks.values()]
    for earlier in {hook.compression for hook in hooks if isinstance(hook, Hook)}:
        earlier.detach()
    return Compression(model, plan, spec)


def _check(plan: Plan, spec: EncoderSpec) -> None:
    needs = plan.required()
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
