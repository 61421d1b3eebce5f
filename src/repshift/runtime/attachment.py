"""What is attached to a model, and how it is taken off again."""

from __future__ import annotations

import copy
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

Self = TypeVar("Self", bound="Attachment")  # typing's own is not checked function by function


class Attachment:
    """Something attached to a model until it is detached; a context manager.

    What a forward leaves behind is kept for each thread by itself (``_local``), so that several
    threads can call one model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._local = threading.local()
        self._verified = False
        self._handles: list[RemovableHandle | ReplacedForward] = []

    def _attach(self, handles: Iterable[RemovableHandle | ReplacedForward]) -> None:
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

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._local = threading.local()

    def _verify(self, features: Tensor) -> bool:
        # NaN sorts first, so that a NaN token is kept and turns the output to NaN: never silent.
        # Saying so at once costs a synchronisation on a GPU, which only the first forward pays.
        if torch.compiler.is_compiling() or features.is_meta or transforming():
            return False
        return features.device.type == "cpu" or not self._verified


class Hook:
    """A hook on one module of a model.

    A copy of the whole model has the copied attachment; a copy of a part is dense.
    """

    def __init__(self, attachment: Attachment, action: Callable[..., Any]) -> None:
        self.attachment, self.action = attachment, action

    def __call__(self, *inputs: Any) -> Any:
        return self.action(*inputs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Hook | Inactive:
        return _copied(self, memo) if id(self.attachment._model) in memo else Inactive()


class Inactive:
    """The hook on a copied part of a model: it does nothing."""

    def __call__(self, *_: Any) -> None:
        pass


class ReplacedForward:
    """Takes the place of the ``forward`` of one module, so that it can run inside a ``with``.

    Hooks cannot: PyTorch calls none of them after a KeyboardInterrupt. ``run`` gets the module's
    own forward and its arguments. The module is told by a pre-hook, because the replicas of
    ``nn.DataParallel`` share this object and not the module.
    """

    def __init__(
        self,
        attachment: Attachment,
        module: nn.Module,
        run: Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any],
    ) -> None:
        self.attachment, self.module, self.run = attachment, module, run
        # One that others have put there, as accelerate does.
        self.earlier = vars(module).get("forward")
        self.handle = module.register_forward_pre_hook(Hook(attachment, self._remember))
        module.forward = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module = getattr(self.attachment._local, "module", self.module)
        forward = self.earlier or partial(type(module).forward, module)
        return self.run(forward, args, kwargs)

    def remove(self) -> None:
        """Put the module's own forward back."""
        self.handle.remove()
        if vars(self.module).get("forward") is self:
            del self.module.forward
            if self.earlier is not None:
                self.module.forward = self.earlier
        # Others may have wrapped this object; for them it becomes the module's own forward.
        self.run = _plainly

    def _remember(self, module: nn.Module, _: tuple[Any, ...]) -> None:
        self.attachment._local.module = module

    def __deepcopy__(self, memo: dict[int, Any]) -> ReplacedForward | partial[Any]:
        if id(self.attachment._model) in memo:
            return _copied(self, memo)
        part = memo[id(self.module)]
        return partial(type(part).forward, part)


def _plainly(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return forward(*args, **kwargs)


def _copied(thing: Any, memo: dict[int, Any]) -> Any:
    """What ``copy.deepcopy`` makes of an object without a ``__deepcopy__`` of its own."""
    twin = memo[id(thing)] = object.__new__(type(thing))
    vars(twin).update(copy.deepcopy(vars(thing), memo))
    return twin


def transforming() -> bool:
    """Whether ``torch.func`` (grad, jacrev, vmap) is at work, where no value can be looked at."""
    return torch._C._functorch.peek_interpreter_stack() is not None
