"""The mean over tokens after the last block, which weighs merged tokens by their size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from repshift.errors import InputError
from repshift.runtime.attachment import Hook, transforming

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

    from repshift.runtime.engine import Engine

_AGAIN = (
    "the mean over tokens must weigh merged ones by their size, and {}; call compress(model, plan) "
    "again after a change of the head or of the pooling"
)


class WeightedMean:
    """Replaces the plain mean that the head is given by the mean weighted by size.

    It goes by the tokens of the last forward; given a mean of others, it never passes the plain one
    on: that is an error, and on a GPU, where asking would wait for the device, NaN.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.pooling = engine.spec.pooling

    def attach(self) -> Iterator[RemovableHandle]:
        """Hook what gives the tokens and what takes their mean."""
        assert self.pooling is not None
        tokens = Hook(self.engine, self._capture_tokens)
        yield self.pooling.tokens.register_forward_hook(tokens)
        average = Hook(self.engine, self._replace_mean)
        yield self.pooling.average.register_forward_pre_hook(average)

    def check(self) -> None:
        """At the end of a forward: whether the mean was replaced."""
        local = self.engine._local
        if getattr(local, "features", None) is not None and self._weights() is not None:
            local.features = None
            raise InputError(_AGAIN.format("the module that read it has been replaced"))

    def _weights(self) -> Float[Tensor, "B K"] | None:
        trace = self.engine._trace
        return trace.weights() if trace and trace.counts else None

    def _capture_tokens(self, _: nn.Module, args: tuple[Any, ...], features: Tensor) -> None:
        self.engine._local.features = features

    def _replace_mean(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        local = self.engine._local
        features, weights = getattr(local, "features", None), self._weights()
        local.features = None
        if weights is None or self.pooling is None:
            return None
        given = args[0]
        if features is None or not isinstance(given, torch.Tensor) or given.ndim != 2:
            raise InputError(_AGAIN.format("what the head reads is no mean of the last tokens"))
        features = features[:, self.pooling.skipped :]
        weights = weights.to(features.device)[:, self.pooling.skipped :, None]
        # A class token may come before the mean.
        before, plain = given.split((given.shape[1] - features.shape[2], features.shape[2]), dim=1)
        mean = ((features * weights).sum(1) / weights.sum(1)).to(features.dtype)
        mean = self._checked(mean, plain, features.mean(1))
        return (torch.cat((before, mean), dim=1), *args[1:])

    def _checked(
        self,
        mean: Float[Tensor, "B C"],
        given: Float[Tensor, "B C"],
        plain: Float[Tensor, "B C"],
    ) -> Float[Tensor, "B C"]:
        """``mean``, if what was ``given`` is the plain one of the same tokens."""
        if given.shape != plain.shape:
            raise InputError(_AGAIN.format("the head was given the mean of another batch"))
        room = 8 * torch.finfo(plain.dtype).eps * plain.abs().amax(1, keepdim=True)
        same = (given - plain).abs() <= room
        same |= given.isnan()
        watched = torch.compiler.is_compiling() or plain.is_meta or transforming()
        if plain.device.type == "cpu" and not watched and not bool(same.all()):
            raise InputError(_AGAIN.format("the head was given the mean of other tokens"))
        return mean.where(same, torch.nan)
