"""A plan at work on a model. Everything happens in hooks."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch

from repshift.errors import InputError
from repshift.reductions.base import Merging
from repshift.runtime.attachment import Attachment, Hook
from repshift.runtime.attention import AttentionRecorder
from repshift.runtime.block_state import BlockState
from repshift.runtime.carriers import bind, gather_arguments, padding_among, rebind
from repshift.runtime.checkpointing import check_place, recomputing, replays
from repshift.runtime.trace import ForwardTrace
from repshift.sequence.levels import PackedStep

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from jaxtyping import Float, Int, Shaped
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

    from repshift.adapters.spec import EncoderSpec
    from repshift.plan import Plan


class Compression(Attachment):
    """A plan at work on a model; made by ``compress``."""

    def __init__(self, model: nn.Module, plan: Plan, spec: EncoderSpec) -> None:
        self.plan = plan
        self.spec = spec
        readers = [reader for reader, _ in spec.readers]
        self._names = [
            tuple(inspect.signature(part.forward).parameters) for part in (*spec.blocks, *readers)
        ]
        self._call: ForwardTrace | None = None
        self._run: BlockState | None = None
        self._features: Tensor | None = None
        super().__init__(self._attach(model))

    @property
    def counts(self) -> list[int]:
        """Tokens that left each block in the last call, prefix tokens included.

        With an adaptive budget, those of the mean image, rounded; ``lengths`` has each.
        """
        call = self._last_call()
        return [call.mean_after(block) for block in range(len(self.spec.blocks))]

    @property
    def kept(self) -> Int[Tensor, "B K"]:
        """Index in the dense sequence of each token that survived the last call.

        Ascending, except after the matching of ToMe and vid-TLDR, which puts the tokens at odd
        places last, ToMe without a class token the others in the order of their likeness. With
        an adaptive budget, -1 at the end of images that kept fewer than the longest.
        """
        return self.kept_after(len(self.spec.blocks) - 1)

    @property
    def sizes(self) -> Float[Tensor, "B K"]:
        """How many tokens of the dense sequence were merged into each survivor of the last call.

        1 for a token that took up no other, 0 where ``kept`` is -1; pruned tokens count nowhere.
        """
        return self.sizes_after(len(self.spec.blocks) - 1)

    def sizes_after(self, block: int) -> Float[Tensor, "B K"]:
        """How many tokens were merged into each that left ``block`` in the last call."""
        call = self._last_call()
        sizes = call.size_after(block)
        if sizes is None:
            return (self.kept_after(block) >= 0).float()
        return sizes

    @property
    def lengths(self) -> Int[Tensor, " B"]:
        """How many tokens of each image survived the last call, prefix tokens included."""
        return self.lengths_after(len(self.spec.blocks) - 1)

    def lengths_after(self, block: int) -> Int[Tensor, " B"]:
        """How many tokens of each image left ``block`` in the last call."""
        call = self._last_call()
        if packing := call.packing_after(block):
            return packing.lengths
        return torch.full((call.batch,), call.counts[block], device=call.device)

    def kept_after(self, block: int) -> Int[Tensor, "B K"]:
        """Index in the dense sequence of each token that left ``block`` in the last call."""
        call = self._last_call()
        kept = (call.map_after(block) or call.identity()).kept
        packing = call.packing_after(block)
        return kept if packing is None else kept.masked_fill(packing.padding, -1)

    def restore(
        self, features: Shaped[Tensor, "B K C"], block: int | None = None
    ) -> Shaped[Tensor, "B N C"]:
        """Put the tokens that left ``block`` (the last one) in the last call back in place.

        Each token that left gets the features of the survivor that stands for it.
        """
        call = self._last_call()
        block = len(self.spec.blocks) - 1 if block is None else block
        if (packing := call.packing_after(block)) and features.shape[1] == call.counts[block]:
            features = packing.unpack(features)
        return (call.map_after(block) or call.identity()).restore(features)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_call": None, "_run": None, "_features": None}

    def _last_call(self) -> ForwardTrace:
        if self._call is None or len(self._call.counts) < len(self.spec.blocks):
            raise InputError(
                "no complete forward has run under this plan yet; call the model first"
            )
        return self._call

    def _attach(self, model: nn.Module) -> Iterator[RemovableHandle]:
        plan, spec = self.plan, self.spec
        yield model.register_forward_pre_hook(Hook(self, "_start"))
        yield model.register_forward_hook(Hook(self, "_finish"))
        for index, block in enumerate(spec.blocks):
            enter = Hook(self, "_enter", index)
            yield block.register_forward_pre_hook(enter, with_kwargs=True)
            # First of all hooks, so that those of others (the hidden states of transformers) see
            # what is left of the tokens, whoever came first.
            yield block.register_forward_hook(Hook(self, "_leave", index), prepend=True)
            watches = plan.adaptive or plan.reduction.proportional_attention
            if watches or plan.required() & {"attention", "keys"}:
                # The mode that watches attention must be left even where the block raises.
                yield block.register_forward_hook(Hook(self, "_release"), always_call=True)
            if index not in plan.drop:
                continue
            norm2 = spec.norm2[index]
            if norm2 is not None and ("middle" in plan.required() or plan.before_mlp):
                yield norm2.register_forward_pre_hook(Hook(self, "_see_middle"))
            if plan.before_mlp and (mlp := spec.mlp[index]) is not None:
                yield mlp.register_forward_hook(Hook(self, "_expand"))
            if "activation" in plan.required():
                yield spec.mixers[index].register_forward_pre_hook(Hook(self, "_see_activation"))
        for index, (reader, _) in enumerate(spec.readers):
            yield reader.register_forward_pre_hook(Hook(self, "_read", index), with_kwargs=True)
        if spec.pooling and (isinstance(plan.reduction, Merging) or plan.adaptive):
            yield spec.pooling.tokens.register_forward_hook(Hook(self, "_see_features"))
            yield spec.pooling.average.register_forward_pre_hook(Hook(self, "_average"))

    # The hooks, in the order in which they fire.

    def _start(self, block: int, args: tuple[Any, ...]) -> None:
        self._call = None
        if self.plan.adaptive and torch.compiler.is_compiling():
            raise InputError(
                "how many tokens an adaptive budget keeps, only the images tell, so no graph can "
                "be compiled or exported for it; use a fixed budget"
            )

    def _enter(
        self, block: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        tokens = args[0] if args else None
        if not isinstance(tokens, torch.Tensor) or tokens.ndim != 3:
            raise InputError(
                f"block {block} must take its tokens [B, N, C] as its first argument; got "
                f"{_kind(tokens)}"
            )
        again = recomputing()
        if block == 0 and not again:
            self._call = ForwardTrace(tokens.shape[0], tokens.shape[1], tokens.device)
        call = self._call
        came = call.counts.get(block - 1) if call and block else tokens.shape[1]
        if call is None or (tokens.shape[1] != came and not again):
            raise InputError(
                f"{tokens.shape[1]} tokens entered block {block}, but "
                f"{came} left the block before it; this model puts "
                "tokens back or skips blocks between them, so it cannot be compressed by hooks"
            )
        names = self._names[block]
        given = bind(names, args, kwargs)
        for name, reason in self.spec.refused.items():
            if given.get(name) is not None:
                raise InputError(f"block {block} was given {name}: {reason}")
        size, packing = call.size_after(block - 1), call.packing_after(block - 1)
        followed = gather_arguments(call, block, given, self.spec.positions)
        ids = self.spec.position_ids
        if ids and given.get(ids) is None and (so_far := call.map_after(block - 1)):
            followed[ids] = packing.pack(so_far.kept) if packing else so_far.kept
        if followed or size is not None or packing:
            check_place(call, block, tokens, again)
        if self.plan.adaptive:
            drop = self.plan.drop.get(block, 0) if len(tokens) else 0
        else:
            drop = self.plan.leaving(block, tokens.shape[1] - self.spec.staying)
        self._run = run = BlockState(block, self.plan, self.spec, drop, tokens, size, packing)
        if drop and packing:
            run.padding = packing.padding
        elif drop:
            run.padding = padding_among(given | followed, self.spec.positions, tokens)
            run.inner = call.places_of(self.spec.inner_tokens, block - 1)
        self._watch(run)
        return rebind(names, args, kwargs, followed) if followed else None

    def _see_middle(self, _: int, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if (run := self._run) is None:
            return None
        run.middle = args[0]
        if self.plan.before_mlp and run.drop:
            run.step = run.decide(args[0], self._verify(args[0]))
        return None if run.step is None else (run.step.apply(args[0], run.size), *args[1:])

    def _see_activation(self, _: int, args: tuple[Any, ...]) -> None:
        if self._run is not None:
            self._run.activation = args[0]

    def _expand(
        self, _: int, args: tuple[Any, ...], branch: Float[Tensor, "B K C"]
    ) -> Float[Tensor, "B N C"] | None:
        # The block adds this branch to the stream of all its tokens. Those that are merged get the
        # same update, so that merging after the addition equals merging before the MLP.
        if self._run is None or self._run.step is None:
            return None
        return self._run.step.map.restore(branch)

    def _leave(self, block: int, args: tuple[Any, ...], output: Any) -> Any:
        call, run = self._call, self._run
        tokens = output[0] if isinstance(output, tuple) else output
        if call is None or run is None or not isinstance(tokens, torch.Tensor):
            raise InputError(f"block {block} must return its tokens [B, N, C]; got {_kind(output)}")
        if run.watch and run.watch.size is not None and run.watch.calls == 0:
            raise InputError(
                f"{self.plan.reduction} weighs the keys of block {block} by their size, but the "
                "block did not call scaled_dot_product_attention; load a Hugging Face model with "
                'attn_implementation="sdpa", or merge with attention="plain"'
            )
        if run.packing and run.watch and run.watch.calls == 0:
            raise InputError(
                f"with an adaptive budget the images of a batch meet in block {block}, which did "
                "not call scaled_dot_product_attention, where they are kept apart; load a Hugging "
                'Face model with attn_implementation="sdpa", or use a fixed budget'
            )
        if run.drop and not self.plan.before_mlp:
            run.step = run.decide(tokens, self._verify(tokens))
        step = run.step
        reduced = step.apply(tokens, run.size) if step else tokens
        # A block that checkpointing runs again may belong to an earlier call: it records nothing.
        if not recomputing():
            call.record(block, reduced.shape[1], step, run.size)
        self._release(block, args, output)
        packing = step.packing if isinstance(step, PackedStep) else run.packing
        if packing and block == len(self.spec.blocks) - 1:
            reduced = packing.unpack(reduced)
        if reduced is tokens:
            return None
        return (reduced, *output[1:]) if isinstance(output, tuple) else reduced

    def _release(self, _: int, args: tuple[Any, ...], output: Any) -> None:
        run, self._run = self._run, None
        if run and run.watch:
            run.watch.__exit__(None, None, None)

    def _read(
        self, index: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        part = len(self.spec.blocks) + index
        names, layouts = self._names[part], self.spec.readers[index][1]
        given = bind(names, args, kwargs)
        followed = gather_arguments(self._call, part, given, layouts) if self._call else {}
        return rebind(names, args, kwargs, followed)

    def _see_features(self, _: int, args: tuple[Any, ...], features: Tensor) -> None:
        self._features = features

    def _average(self, _: int, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        features, self._features = self._features, None
        weights = self._call.weights() if self._call else None
        if features is None or weights is None or self.spec.pooling is None:
            return None
        weights = weights[:, self.spec.pooling.skipped :, None]
        summed = (features[:, self.spec.pooling.skipped :] * weights).sum(1)
        mean = (summed / weights.sum(1)).to(features.dtype)
        # A class token may come before the mean.
        return (torch.cat((args[0][:, : -mean.shape[1]], mean), dim=1), *args[1:])

    def _finish(self, _: int, args: tuple[Any, ...], output: Any) -> None:
        self._features = None
        ran = len(self._call.counts) if self._call else 0
        if ran < len(self.spec.blocks):
            raise InputError(
                f"only {ran} of {len(self.spec.blocks)} blocks ran in this forward; the plan did "
                "not take effect as written (is the model calling its blocks in another way? Under "
                "torch.compile, code made before compress, or for a model of this class without a "
                "plan, has no hooks: compress first, and call torch._dynamo.reset() between them)"
            )
        self._verified = True

    def _watch(self, run: BlockState) -> None:
        needs = self.plan.required() & {"attention", "keys"} if run.drop else frozenset()
        size = run.size if self.plan.reduction.proportional_attention else None
        acts = needs or size is not None or run.packing or (run.drop and self.plan.before_mlp)
        if acts and replays(self.spec.blocks[run.block]):
            raise InputError(
                "gradient checkpointing of transformers runs a block again without its hooks, so "
                f"{self.plan.method} would not act there; train with a score that reads no "
                "attention, prune and a fixed budget, or without gradient checkpointing"
            )
        if needs or size is not None or run.packing:
            run.watch = AttentionRecorder(needs, size, run.packing)
            run.watch.__enter__()


def _kind(value: object) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"a tensor of shape {list(shape)}"
