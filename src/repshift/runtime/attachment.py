"""What is attached to a model, and how it is taken off again."""

from __future__ import annotations

import copy
import inspect
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch

from repshift.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

Self = TypeVar("Self", bound="Attachment")  # typing's own is not checked function by function


def own_of_a_thread() -> threading.local:
    """A place for what a forward leaves behind, empty in this thread.

    A graph that was compiled where nothing stood would be compiled again once something does.
    """
    local = threading.local()
    for name in ("state", "trace", "means", "layout", "called"):
        setattr(local, name, None)
    local.begun = 0
    return local


class Attachment:
    """Something attached to a model until it is detached; a context manager.

    What a forward leaves behind is kept for each thread by itself (``_local``), so that several
    threads can call one model.
    """

    # Whether it reads what a part of its model leaves behind, which nothing else may compress.
    reads_part: ClassVar[bool] = False

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._local = own_of_a_thread()
        self._verified = False
        self._entered = False
        self._handles: list[RemovableHandle | ReplacedMethod] = []

    def _attach(self, handles: Iterable[RemovableHandle | ReplacedMethod]) -> None:
        """Attach one after the other, all or nothing."""
        try:
            for handle in handles:
                self._handles.append(handle)
        except BaseException:
            self.detach()
            raise

    def detach(self) -> None:
        """Take everything off; the model is as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __repr__(self) -> str:
        state = "attached to" if self._handles else "detached from"
        plan = getattr(self, "plan", None)
        said = "" if plan is None else f": {plan}"
        return f"<{type(self).__name__} {state} a {type(self._model).__name__}{said}>"

    def __enter__(self: Self) -> Self:
        if not self._handles:
            raise InputError(
                "nothing is attached any more (detach() was called, a `with` block was left, or a "
                "later compress took its place), so the model would run dense; call "
                "compress(model, plan) again"
            )
        if self._entered:
            raise InputError(
                "this `with` block stands inside another of the same compression, whose rest "
                "would run dense; enter it once"
            )
        self._entered = True
        return self

    def __exit__(self, *_: object) -> None:
        self._entered = False
        self.detach()

    def __getstate__(self) -> dict[str, Any]:
        own = ("_local", "_entered")  # of this process and this `with` block
        return {name: value for name, value in vars(self).items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._local, self._entered = own_of_a_thread(), False

    def _verify(self, features: Tensor) -> bool:
        # NaN sorts first, so that a NaN token is kept and turns the output to NaN: never silent.
        # Saying so at once costs a synchronisation on a GPU, which only the first forward pays.
        return readable(features) and (features.device.type == "cpu" or not self._verified)

    def _fresh(self, features: Tensor) -> bool:
        # In this order: a compiled graph that reads the second would be compiled again.
        return readable(features) and not self._verified


class Hook:
    """A hook on one module of a model.

    A copy of the whole model has the copied attachment; a copy of a part is dense.
    """

    def __init__(self, attachment: Attachment, action: Callable[..., Any]) -> None:
        self.attachment, self.action = attachment, action

    def __call__(self, *inputs: Any) -> Any:
        return self.action(*inputs)

    @property
    def __name__(self) -> str:
        """What torch.jit.script asks a hook first; it can compile none of these."""
        raise InputError(
            "torch.jit.script cannot compile a compressed model; use torch.compile or "
            "torch.export, or detach() first"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Hook | Inactive:
        return copied(self, memo) if id(self.attachment._model) in memo else Inactive()


class Inactive:
    """The hook on a copied part of a model: it does nothing."""

    def __call__(self, *_: Any) -> None:
        pass


class ReplacedMethod:
    """Takes the place of a method of one module; ``run`` gets the method and its arguments."""

    def __init__(
        self,
        attachment: Attachment,
        module: nn.Module,
        name: str,
        run: Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any],
    ) -> None:
        self.attachment, self.module, self.name, self.run = attachment, module, name, run
        # One that others have put there, as accelerate does.
        self.earlier = vars(module).get(name)
        setattr(module, name, self)

    @property
    def __signature__(self) -> inspect.Signature:
        """That of the method: others ask it, as transformers' Trainer does."""
        own = partial(getattr(type(self.module), self.name), self.module)
        return inspect.signature(self.earlier or own)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module = self._owner()
        method = self.earlier or partial(getattr(type(module), self.name), module)
        return self.run(method, args, kwargs)

    def remove(self) -> None:
        """Put the module's own method back."""
        if vars(self.module).get(self.name) is self:
            delattr(self.module, self.name)
            if self.earlier is not None:
                setattr(self.module, self.name, self.earlier)
        # Others may have wrapped this object; for them it becomes the module's own method.
        self.run = _plainly

    def _owner(self) -> nn.Module:
        return self.module

    def __deepcopy__(self, memo: dict[int, Any]) -> ReplacedMethod | partial[Any]:
        if id(self.attachment._model) in memo:
            return copied(self, memo)
        if self.earlier is not None:
            return copy.deepcopy(self.earlier, memo)
        part = memo[id(self.module)]
        return partial(getattr(type(part), self.name), part)


class ReplacedForward(ReplacedMethod):
    """Takes the place of a module's ``forward``, so that it can run inside a ``with``.

    Hooks cannot: PyTorch calls none of them after a KeyboardInterrupt. The module is told by a
    pre-hook, because the replicas of ``nn.DataParallel`` share this object and not the module.
    """

    def __init__(
        self,
        attachment: Attachment,
        module: nn.Module,
        run: Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any],
    ) -> None:
        super().__init__(attachment, module, "forward", run)
        self.handle = module.register_forward_pre_hook(Hook(attachment, self._remember))

    def remove(self) -> None:
        self.handle.remove()
        super().remove()

    def _owner(self) -> nn.Module:
        local = self.attachment._local
        called, local.called = getattr(local, "called", None), None
        # None where ``forward`` is called by itself, without the hooks.
        return self.module if called is None or called[0] is not self else called[1]

    def _remember(self, module: nn.Module, _: tuple[Any, ...]) -> None:
        self.attachment._local.called = (self, module)


def _plainly(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return forward(*args, **kwargs)


def copied(thing: Any, memo: dict[int, Any]) -> Any:
    """What ``copy.deepcopy`` makes of an object without a ``__deepcopy__`` of its own."""
    twin = memo[id(thing)] = object.__new__(type(thing))
    vars(twin).update(copy.deepcopy(vars(thing), memo))
    return twin


def readable(tensor: Tensor) -> bool:
    """Whether its values can be looked at: not in a graph, a fake tensor, or torch.func."""
    if torch.compiler.is_compiling() or tensor.is_meta or hasattr(tensor, "fake_mode"):
        return False
    return torch._C._functorch.peek_interpreter_stack() is None
