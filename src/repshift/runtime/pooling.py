"""The mean over tokens after the last block, which weighs merged tokens by their size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from repshift.errors import InputError
from repshift.runtime.attachment import Hook, readable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Bool, Float
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

    from repshift.runtime.engine import Engine

_AGAIN = (
    "the mean over tokens must weigh merged ones by their size, and {}; call compress(model, plan) "
    "again after a change of the head or of the pooling"
)


@dataclass
class Means:
    """Those of the last tokens: as the model takes it, and by size.

    ``room`` is how far rounding may take a mean; ``read`` says whether the head was given one, and
    ``over`` whether the forward is over and the graph of the gradients gone with it.
    """

    plain: Float[Tensor, "B C"]
    weighted: Float[Tensor, "B C"]
    room: Float[Tensor, "B C"]
    read: bool = False
    over: bool = False

    def known(self, mean: Float[Tensor, "B C"]) -> Bool[Tensor, "B 1"]:
        """Which rows of ``mean`` are one of the two, but for rounding."""
        same = [
            (mean == own) | ((mean - own).abs() <= self.room) | own.isnan()
            for own in (self.plain, self.weighted.detach())
        ]
        return same[0].all(1, keepdim=True) | same[1].all(1, keepdim=True)


class WeightedMean:
    """Replaces the plain mean that the head is given by the mean weighted by size.

    A mean of other tokens than the last is never passed on as it is: that is an error, and on a
    GPU, where asking would wait for the device, NaN.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.pooling = engine.spec.pooling

    def attach(self) -> Iterator[RemovableHandle]:
        """Hook what gives the tokens and what takes their mean."""
        assert self.pooling is not None
        tokens = Hook(self.engine, self._take_means)
        yield self.pooling.tokens.register_forward_hook(tokens)
        average = Hook(self.engine, self._replace_mean)
        yield self.pooling.average.register_forward_pre_hook(average)

    def finish(self) -> None:
        """At the end of a forward: whether the head was given the mean by size."""
        if (means := self._means()) is None:
            return
        if not means.read:
            raise InputError(_AGAIN.format("the module that read it has been replaced"))
        means.weighted, means.over = means.weighted.detach(), True

    def _means(self) -> Means | None:
        return getattr(self.engine._local, "means", None)

    def _take_means(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        trace, local = self.engine._trace, self.engine._local
        weights = trace.weights() if trace and trace.counts else None
        local.means = None
        if weights is None or self.pooling is None:
            return
        tokens: Tensor = output[0] if isinstance(output, tuple) else output  # as a block's output
        features = tokens[:, self.pooling.skipped :]
        weights = weights.to(features.device)[:, self.pooling.skipped :, None]
        weighted = ((features * weights).sum(1) / weights.sum(1)).to(features.dtype)
        most, features = features.amax(1), features.detach()
        plain, eps = features.mean(1), torch.finfo(features.dtype).eps
        # Sums run in float32 at least; the result is rounded once more.
        summed = 8 * min(eps, torch.finfo(torch.float32).eps) * features.abs().mean(1)
        if self.pooling.with_max:
            plain, weighted = (plain + most.detach()) / 2, (weighted + most) / 2
        local.means = Means(plain, weighted, eps * plain.abs() + summed)

    def _replace_mean(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if (means := self._means()) is None:
            return None
        given, width = args[0], means.plain.shape[1]
        if not isinstance(given, torch.Tensor) or given.ndim != 2 or given.shape[1] < width:
            raise InputError(_AGAIN.format("what the head reads is no mean of the last tokens"))
        # A class token may come before the mean.
        before, mean = given.split((given.shape[1] - width, width), dim=1)
        if mean.shape != means.plain.shape:
            raise InputError(_AGAIN.format("the head was given the mean of another batch"))
        if means.over and mean.requires_grad and torch.is_grad_enabled():
            raise InputError(
                "the forward is over, and the mean by size has no gradient any more; call the "
                "model, or forward_features and then the head"
            )
        means.read = True
        known = means.known(mean.detach())  # a caller may have weighed by size already
        if mean.device.type == "cpu" and readable(mean) and not bool(known.all()):
            raise InputError(_AGAIN.format("the head was given the mean of other tokens"))
        return (torch.cat((before, means.weighted.where(known, torch.nan)), dim=1), *args[1:])
