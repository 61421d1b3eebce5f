"""Attach a plan to a model, run it, take it off again. Everything happens in hooks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from repshift.errors import InputError
from repshift.scores import Snapshots
from repshift.tokens import TokenMap, follow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from jaxtyping import Float, Int, Shaped
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

    from repshift.adapters.spec import EncoderSpec
    from repshift.plan import Plan


def compress(model: nn.Module, plan: Plan, spec: EncoderSpec | None = None) -> Compression:
    """Make ``model`` drop tokens as ``plan`` says, from the next call on.

    Nothing is copied or trained and no weight changes; a plan attached before is replaced. ``spec``
    names the parts of a model of your own; models of timm are recognised. Undo it with ``detach()``
    or use the result in a ``with`` block. Compress first, then ``torch.compile``.

    Raises ``InputError`` if the model cannot lose tokens or the plan does not fit it.
    """
    if spec is None:
        from repshift.adapters import describe

        spec = describe(model)
    _check(plan, spec)
    hooks = [hook for part in (model, *spec.blocks) for hook in part._forward_hooks.values()]
    for earlier in {hook.compression for hook in hooks if isinstance(hook, _Hook)}:
        earlier.detach()
    return Compression(model, plan, spec)


class _Hook:
    """A small callable, so that a compressed model can be pickled, copied and compiled."""

    def __init__(self, compression: Compression, action: str, block: int = -1) -> None:
        self.compression = compression
        self.action = action
        self.block = block

    def __call__(self, module: nn.Module, *inputs: Any) -> Any:
        return getattr(self.compression, self.action)(self.block, *inputs)


@dataclass
class _Call:
    """What the last forward left behind: counts and indices by block, never features."""

    batch: int
    dense: int
    device: torch.device
    counts: dict[int, int] = field(default_factory=dict)
    maps: dict[int, TokenMap] = field(default_factory=dict)  # from the dense sequence to here
    places: dict[int, int] = field(default_factory=dict)  # memory addresses, to tell calls apart

    def map_before(self, block: int) -> TokenMap | None:
        """The way from the dense sequence to the tokens that enter ``block``; None if all do."""
        return self.maps[max(done)] if (done := [b for b in self.maps if b < block]) else None


class Compression:
    """A plan at work on a model; made by ``compress``."""

    def __init__(self, model: nn.Module, plan: Plan, spec: EncoderSpec) -> None:
        self.plan = plan
        self.spec = spec
        self._call: _Call | None = None
        self._seen: dict[str, Tensor] = {}
        self._verified = False
        self._switched: list[tuple[nn.Module, str, Any]] = []
        self._handles = list(self._attach(model))

    @property
    def counts(self) -> list[int]:
        """Tokens that left each block in the last call, prefix tokens included."""
        call = self._last_call()
        return [call.counts[block] for block in range(len(self.spec.blocks))]

    @property
    def kept(self) -> Int[Tensor, "B K"]:
        """Index in the dense sequence of each token that survived the last call, ascending."""
        return self._map_after(len(self.spec.blocks) - 1).kept

    def kept_after(self, block: int) -> Int[Tensor, "B K"]:
        """Index in the dense sequence of each token that left ``block`` in the last call."""
        return self._map_after(block).kept

    def restore(self, features: Shaped[Tensor, "B K C"]) -> Shaped[Tensor, "B N C"]:
        """Put the survivors of the last call back in place, for dense outputs.

        Each token that left gets the features of the survivor that stands for it.
        """
        return self._map_after(len(self.spec.blocks) - 1).restore(features)

    def detach(self) -> None:
        """Take every hook off and switch attention back; the model is as it was."""
        for handle in self._handles:
            handle.remove()
        for layer, switch, value in self._switched:
            setattr(layer, switch, value)
        self._handles, self._switched = [], []

    def __enter__(self) -> Compression:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_call": None, "_seen": {}}

    def _last_call(self) -> _Call:
        if self._call is None or len(self._call.counts) < len(self.spec.blocks):
            raise InputError(
                "no complete forward has run under this plan yet; call the model first"
            )
        return self._call

    def _map_after(self, block: int) -> TokenMap:
        call = self._last_call()
        so_far = call.map_before(block + 1)
        return so_far or TokenMap.identity(call.batch, call.dense, call.device)

    def _attach(self, model: nn.Module) -> Iterator[RemovableHandle]:
        needs = self.plan.score.required()
        yield model.register_forward_pre_hook(_Hook(self, "_start"))
        yield model.register_forward_hook(_Hook(self, "_finish"))
        for index, block in enumerate(self.spec.blocks):
            yield block.register_forward_pre_hook(_Hook(self, "_enter", index), with_kwargs=True)
            yield block.register_forward_hook(_Hook(self, "_leave", index))
            if index not in self.plan.drop:
                continue
            if "middle" in needs and (norm := self.spec.norm2[index]) is not None:
                yield norm.register_forward_pre_hook(_Hook(self, "_see_middle"))
            if "attention" in needs and (attention := self.spec.attention[index]) is not None:
                layer, switch = attention.layer, attention.switch
                self._switched.append((layer, switch, getattr(layer, switch)))
                setattr(layer, switch, False)
                yield attention.reader.register_forward_pre_hook(_Hook(self, "_see_attention"))

    # The hooks, in the order in which they fire.

    def _start(self, block: int, args: tuple[Any, ...]) -> None:
        self._call = None

    def _enter(
        self, block: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        tokens = args[0] if args else None
        if not isinstance(tokens, torch.Tensor) or tokens.ndim != 3:
            raise InputError(
                f"block {block} must take its tokens [B, N, C] as its first argument; got "
                f"{_kind(tokens)}"
            )
        again = _recomputing()
        if block == 0 and not again:
            self._call = _Call(tokens.shape[0], tokens.shape[1], tokens.device)
        call = self._call
        came = call.counts.get(block - 1) if call and block else tokens.shape[1]
        if call is None or (tokens.shape[1] != came and not again):
            raise InputError(
                f"{tokens.shape[1]} tokens entered block {block}, but "
                f"{came} left the block before it; this model puts "
                "tokens back or skips blocks between them, so it cannot be compressed by hooks"
            )
        if block in self.plan.drop and "entry" in self.plan.score.required():
            self._seen["entry"] = tokens
        so_far = call.map_before(block)
        tables = {
            name: kwargs[name] for name in self.spec.positions if kwargs.get(name) is not None
        }
        if so_far is None or not tables:
            return None
        if not again:
            call.places[block] = _place(tokens)
        elif call.places.get(block) != _place(tokens):
            raise InputError(
                "gradient checkpointing runs the blocks of an earlier forward again, whose token "
                "positions are gone; run backward before the next forward"
            )
        followed = {
            name: follow(table, so_far.kept, call.dense, self.spec.positions[name])
            for name, table in tables.items()
        }
        return args, {**kwargs, **followed}

    def _see_attention(self, block: int, args: tuple[Any, ...]) -> None:
        self._seen["attention"] = args[0]

    def _see_middle(self, block: int, args: tuple[Any, ...]) -> None:
        self._seen["middle"] = args[0]

    def _leave(
        self, block: int, args: tuple[Any, ...], tokens: Float[Tensor, "B N C"]
    ) -> Float[Tensor, "B K C"] | None:
        call, prefix = self._call, self.spec.prefix_tokens
        if call is None or not isinstance(tokens, torch.Tensor):
            raise InputError(f"block {block} must return its tokens [B, N, C]; got {_kind(tokens)}")
        seen, self._seen = self._seen, {}
        drop = self.plan.leaving(block, tokens.shape[1] - prefix)
        # A block that checkpointing runs again may belong to an earlier call: it records nothing.
        again = _recomputing()
        if not again:
            call.counts[block] = tokens.shape[1] - drop
        if drop == 0:
            return None
        if missing := self.plan.score.required() - seen.keys() - {"class token"}:
            raise InputError(
                f"{self.plan.score} did not see the {' and the '.join(sorted(missing))}: norm2 of "
                f"block {block}, or the reader of its attention, did not run inside the block"
            )
        scores = self.plan.score(Snapshots(block, prefix, tokens, **seen))
        self._refuse_nan(scores, block)
        reduced, step = self.plan.reduction(tokens, scores, drop, prefix)
        if not again:
            so_far = call.map_before(block)
            call.maps[block] = so_far.then(step) if so_far else step
        return reduced

    def _finish(self, block: int, args: tuple[Any, ...], output: Any) -> None:
        ran = len(self._call.counts) if self._call else 0
        if ran < len(self.spec.blocks):
            raise InputError(
                f"only {ran} of {len(self.spec.blocks)} blocks ran in this forward; the plan did "
                "not take effect as written (is the model calling its blocks in another way?)"
            )
        self._verified = True

    def _refuse_nan(self, scores: Float[Tensor, "B N"], block: int) -> None:
        # NaN sorts first, so a NaN token is kept and turns the output to NaN: never silent. Saying
        # so at the block costs a synchronisation on a GPU, which only the first call pays.
        if torch.compiler.is_compiling() or scores.is_meta:
            return
        if (scores.device.type == "cpu" or not self._verified) and scores.isnan().any():
            raise InputError(
                f"block {block}: the score {self.plan.score} is NaN, so the activations are; "
                "check the input and the weights"
            )


def _kind(value: object) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"a tensor of shape {list(shape)}"


def _place(tokens: Tensor) -> int:
    """Where the tokens lie: checkpointing hands a block the very tensor it got before."""
    taped = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    return tokens.data_ptr() if taped else 0


def _recomputing() -> bool:
    """Whether gradient checkpointing is running a block again, inside the backward pass."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def _check(plan: Plan, spec: EncoderSpec) -> None:
    needs = plan.score.required()
    if "class token" in needs and not spec.class_token:
        raise InputError(f"{plan.score} needs a class token and this model has none")
    for block in plan.drop:
        if block >= len(spec.blocks):
            raise InputError(
                f"the plan drops at block {block}; this model has {len(spec.blocks)} blocks, "
                f"0 to {len(spec.blocks) - 1}"
            )
        if "middle" in needs and spec.norm2[block] is None:
            raise InputError(
                f"{plan.score} needs the stream between attention and MLP, and block {block} runs "
                "them side by side; use the site block"
            )
        if "attention" in needs and not (spec.attention and spec.attention[block]):
            raise InputError(
                f"{plan.score} reads the attention map, and how block {block} forms it is not "
                "known; use a score that reads none, such as shift"
            )
