"""timm: plain vision transformers, EVA's rotary ones and ResNets, recognised by structure.

A model is taken only if its forward and its blocks are the ones read here, so that a variant that
treats its tokens in another way is refused, never compressed wrongly.
"""

from __future__ import annotations

from contextlib import suppress
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from timm.layers import AttentionPoolLatent
from timm.models import eva, resnet
from timm.models import vision_transformer as vit
from timm.models._features import FeatureDictNet, FeatureListNet
from timm.models.deit import VisionTransformerDistilled
from torch import nn

from repshift.adapters.spec import EncoderSpec, MapMethod, Pooling
from repshift.errors import InputError
from repshift.resnet.spec import ResNetSpec
from repshift.resnet.stages import stages_of
from repshift.runtime.carriers import AttentionMask, Rotary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence


def _there(names: Iterable[str]) -> dict[str, type[nn.Module]]:
    """The classes of that name; a release from before one was added lacks it."""
    found = {}
    for name in names:
        with suppress(AttributeError):
            found[name] = resolve_name(name)
    return found


# Where a block reads the stream x' between attention and MLP; None where it has no such stream.
_NORM2 = {
    "timm.models.vision_transformer:Block": "norm2",
    "timm.models.vision_transformer:ResPostBlock": "mlp",
    "timm.models.vision_transformer:ParallelThingsBlock": "ffns.0",
    "timm.models.vision_transformer:ParallelScalingBlock": None,
    "timm.models.vision_transformer:DiffParallelScalingBlock": None,  # from 1.0.23
    "timm.models.eva:EvaBlock": "norm2",
    "timm.models.eva:EvaBlockPostNorm": "mlp",
}
_ATTENTION = (
    "timm.layers:Attention",
    "timm.layers:AttentionRope",
    "timm.layers:DiffAttention",  # from 1.0.23
    "timm.models.eva:EvaAttention",
)
_BLOCK_CLASSES, _ATTENTION_CLASSES = _there(_NORM2), _there(_ATTENTION)
_STEPS = ("forward", "forward_features", "forward_head", "pool")
_FAMILIES = (vit.VisionTransformer, VisionTransformerDistilled, eva.Eva)

_WINDOWS = "its attention runs inside fixed windows of the grid"
_POOLED = "it pools its tokens on the grid from stage to stage"
_RELATIVE = "it adds a relative-position bias that belongs to the full grid"
_REFUSED = {
    "Beit": _RELATIVE,
    "VisionTransformerRelPos": _RELATIVE,
    "VisionTransformerSAM": "it adds relative positions of the full grid and attends in windows",
    "SwinTransformer": _WINDOWS,
    "SwinTransformerV2": _WINDOWS,
    "SwinTransformerV2Cr": _WINDOWS,
    "DaVit": _WINDOWS,
    "MaxxVit": _WINDOWS,
    "GlobalContextVit": _WINDOWS,
    "Nest": _WINDOWS,
    "MultiScaleVit": _POOLED,
    "Hiera": _POOLED,
    "HieraDet": _POOLED,
    "PyramidVisionTransformerV2": _POOLED,
    "Twins": _POOLED,
    "PoolingVisionTransformer": _POOLED,
    "LevitDistilled": _POOLED,
    "Levit": _POOLED,
    "NaFlexVit": "it packs images of several sizes with a padding mask that hooks cannot shorten",
}


# The module whose output a block of a ResNet adds to its shortcut.
_BRANCHES: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    resnet.BasicBlock: lambda block: block.drop_path or block.se or block.bn2,
    resnet.Bottleneck: lambda block: block.drop_path or block.se or block.bn3,
}


def describe(model: nn.Module) -> EncoderSpec | ResNetSpec:
    """The spec of a timm model; ``InputError`` with the reason if it cannot lose tokens."""
    name = type(model).__name__
    if _is_resnet(model) and (spec := stages_of(model, _BRANCHES)):
        return spec
    family = next((known for known in _FAMILIES if _runs_as(model, known)), None)
    listed: Any = getattr(model, "blocks", ())
    blocks: Sequence[nn.Module] = list(listed)
    kinds = [_first(block, _BLOCK_CLASSES) for block in blocks]
    layers = [layer for block in blocks for layer in _layers(block)]
    read = None not in [*kinds, *(_first(layer, _ATTENTION_CLASSES) for layer in layers)]
    if family is None or not blocks or not read:
        reason = _REFUSED.get(name, "repshift was not checked with this class or its parts")
        raise InputError(
            f"timm's {name} cannot be compressed: {reason}. Use a plain ViT, such as "
            "deit_small_patch16_224, a rotary one, such as vit_small_patch16_dinov3, or a "
            "resnet50; for a model whose blocks take and return [B, N, C] alone, pass "
            "spec=EncoderSpec(...), for one with stages of feature maps spec=ResNetSpec(...)"
        )
    pool = getattr(model, "attn_pool", None)
    if isinstance(pool, AttentionPoolLatent) and pool.pos_embed is not None:
        raise InputError(f"timm's {name} cannot be compressed: its pooling has fixed positions")
    return EncoderSpec(
        blocks=blocks,
        norm2=[_norm2(block, kind) for block, kind in zip(blocks, kinds, strict=True) if kind],
        prefix_tokens=int(model.num_prefix_tokens),  # type: ignore[arg-type]
        class_token=getattr(model, "cls_token", None) is not None,
        carriers={"rope": Rotary(), "attn_mask": AttentionMask()},
        mlp=[_mlp(block) for block in blocks],
        pooling=_pooling(model),
        readers=[(part, {}) for part in _whole_readers(model)],
        maps=[MapMethod(model, "forward_intermediates", model.patch_embed.dynamic_feat_size)],  # type: ignore
    )


def resizer(model: nn.Module) -> None:
    """None: timm's own ``set_input_size`` does it."""


def _same(module: nn.Module, known: type[nn.Module], method: str) -> bool:
    """Whether the module runs the method of that class itself, not an override."""
    return getattr(type(module), method, None) is getattr(known, method, module)


def _first(module: nn.Module, known: Mapping[str, type[nn.Module]]) -> str | None:
    """The name among ``known`` of the class whose forward the module runs."""
    return next((name for name, kind in known.items() if _same(module, kind, "forward")), None)


def _norm2(block: nn.Module, kind: str) -> nn.Module | None:
    path = _NORM2[kind]
    return None if path is None else block.get_submodule(path)


def _runs_as(model: nn.Module, known: type[nn.Module]) -> bool:
    return all(_same(model, known, step) for step in _STEPS)


def _layers(block: nn.Module) -> list[nn.Module]:
    """The attention layers of a block; none where the block itself attends."""
    branches: Any = getattr(block, "attns", [block])
    return [branch.attn for branch in branches if hasattr(branch, "attn")]


def _mlp(block: Any) -> nn.Module | None:
    return getattr(block, "mlp", None)


def _pooling(model: Any) -> Pooling | None:
    kind = model.global_pool
    pool: Any = getattr(model, "attn_pool", None)
    if kind == "prr" and getattr(pool, "pool", None) == "avg":  # it attends first
        return Pooling(pool.post_norm, model.fc_norm, 0)
    if kind not in ("avg", "avgmax") or pool is not None:
        return None
    skipped = 0 if getattr(model, "pool_include_prefix", False) else int(model.num_prefix_tokens)
    return Pooling(model.norm, model.fc_norm, skipped, with_max=kind == "avgmax")


def _whole_readers(model: Any) -> list[nn.Module]:
    """What reads all tokens after the blocks, other than a mean."""
    if (pool := getattr(model, "attn_pool", None)) is not None:
        return [pool]
    return [model.norm] if model.global_pool in ("max", "avgmax") else []


def _is_resnet(model: nn.Module) -> bool:
    """A classifier, or what ``features_only`` makes of it."""
    if isinstance(model, FeatureDictNet):
        return any(_same(model, kind, "forward") for kind in (FeatureListNet, FeatureDictNet))
    steps = ("forward", "forward_features", "forward_head")
    return all(_same(model, resnet.ResNet, step) for step in steps)
