"""Handwritten digits and small models trained on them (``scripts/train_digits.py``).

The pictures come with scikit-learn (UCI, "Optical Recognition of Handwritten Digits", CC BY 4.0)
and the weights with this package, so a real accuracy is measured without a download.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from repshift.errors import InputError
from repshift.evaluation.zoo.packaged import load_packaged, weights_file

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from timm.models.resnet import ResNet
    from timm.models.vision_transformer import VisionTransformer
    from torch import Tensor

    from repshift.evaluation.models.vim.model import VisionMamba
    from repshift.evaluation.zoo.packaged import Model

HELD_OUT = 540  # of 1,797 pictures


def training_digits() -> tuple[Float[Tensor, "1257 1 32 32"], Int64[Tensor, "1257"]]:
    """Images from -1 (paper) to 1 (ink) and labels: what the packaged weights were fitted to."""
    return _split()[0]


def held_out_digits() -> tuple[Float[Tensor, "540 1 32 32"], Int64[Tensor, "540"]]:
    """Images from -1 (paper) to 1 (ink) and labels, unseen in training; classes in proportion.

    The split is drawn over pictures, so both parts share their writers.
    """
    return _split()[1]


def digits_vit() -> VisionTransformer:
    """DeiT in small, untrained: 12 blocks, a class token and 64 patches, [B, 1, 32, 32] -> [B, 10].

    Width 64 in 2 heads; heads of half DeiT's width, since an image has a third of its tokens.
    """
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=32, patch_size=4, in_chans=1, num_classes=10, embed_dim=64, depth=12, num_heads=2
    )


def digits_vim() -> VisionMamba:
    """Vim in small, untrained, [B, 1, 32, 32] -> [B, 10]: 64 patches around a class token.

    8 blocks of width 32 with 8 entries a state, so that it trains in minutes on one core.
    """
    from repshift.evaluation.models.vim.config import VimConfig
    from repshift.evaluation.models.vim.model import VisionMamba

    config = VimConfig(
        "digits-vim", 32, depth=8, state=8, image=32, patch=4, channels=1, classes=10
    )
    return VisionMamba(config)


def digits_resnet() -> ResNet:
    """A ResNet in small, untrained: four stages, six basic blocks, [B, 1, 32, 32] -> [B, 10].

    Its first stage sees all 32 rows and columns, as in ResNets for CIFAR-10.
    """
    from timm.models.resnet import BasicBlock, ResNet
    from torch import nn

    block: Any = BasicBlock  # timm asks for an instance
    model: Any = ResNet(
        block, (2, 2, 1, 1), num_classes=10, in_chans=1, stem_type="deep", stem_width=4,
        channels=(8, 16, 32, 64),
    )  # fmt: skip
    model.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def load_digits_vit() -> VisionTransformer:
    """The trained ``digits_vit`` in evaluation mode, ready for ``held_out_digits``."""
    return _load("digits-vit", digits_vit())


def load_digits_vim() -> VisionMamba:
    """The trained ``digits_vim`` in evaluation mode, ready for ``held_out_digits``."""
    return _load("digits-vim", digits_vim())


def load_digits_resnet() -> ResNet:
    """The trained ``digits_resnet`` in evaluation mode, ready for ``held_out_digits``."""
    return _load("digits-resnet", digits_resnet())


def _load(name: str, model: Model) -> Model:
    return load_packaged(model, weights_file(f"{name}.safetensors"), "scripts/train_digits.py")


def _split() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise InputError(
            "the handwritten digits come with scikit-learn, which is not installed; "
            "install it with: pip install repshift[bench]"
        ) from error
    pixels, classes = load_digits(return_X_y=True)
    labels = torch.from_numpy(classes).long()
    images = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 16
    images = F.interpolate(images, size=(32, 32), mode="bicubic").clamp(0, 1) * 2 - 1
    parts = train_test_split(
        range(len(labels)), test_size=HELD_OUT, stratify=classes, random_state=0
    )
    seen, unseen = (torch.tensor(sorted(part)) for part in parts)
    return (images[seen], labels[seen]), (images[unseen], labels[unseen])
