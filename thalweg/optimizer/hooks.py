"""Hooks: what torch calls when the gradient of a parameter is complete."""

from __future__ import annotations

import weakref
from typing import Any, Protocol

import torch
from torch import Tensor

from thalweg.optimizer.compiling import is_compiling


class Owner(Protocol):
    """Who waits for gradients."""

    def arrived(self, param: Tensor, hook: Any) -> None:
        """Take note that the gradient of a parameter is complete."""
        ...


class Hook:
    """What torch calls when a parameter's gradient is complete. It does not hold its owner.

    Python's garbage collector does not see through the hooks of a tensor: a model and an optimizer that held
    each other would stay forever.
    """

    def __init__(self, owner: Owner, param: Tensor) -> None:
        self.owner = weakref.ref(owner)
        requires_grad = param.requires_grad
        param.requires_grad_()  # what is frozen may thaw
        self._handle = param.register_post_accumulate_grad_hook(self)
        param.requires_grad_(requires_grad)

    def __call__(self, param: Tensor) -> None:
        """Tell the owner, if there is one."""
        if is_compiling():
            self._called_uncompiled(param)
        else:
            self._called(param)

    @torch._disable_dynamo
    def _called_uncompiled(self, param: Tensor) -> None:
        self._called(param)

    def _called(self, param: Tensor) -> None:
        owner = self.owner()
        if owner is not None:
            owner.arrived(param, self)
        else:
            self._is_left(param)

    def _is_left(self, param: Tensor) -> None:
        """Do what is to be done when the owner is no more."""

    def remove(self) -> None:
        """Have torch call it no more."""
        self._handle.remove()


class StepHook(Hook):
    """The hook of a parameter that is stepped in backward.

    Attributes:
        size: bytes of the gradient.
    """

    def __init__(self, owner: Owner, param: Tensor) -> None:
        self.size = param.numel() * param.element_size()
        super().__init__(owner, param)

    def _is_left(self, param: Tensor) -> None:
        if not any(hook.owner() is not None for hook in hooks_of(param)):
            raise RuntimeError(
                f"the optimizer that stepped a parameter of shape {tuple(param.shape)} in backward is no "
                "more: keep it for as long as you train"
            )


def hooks_of(param: Tensor) -> list[StepHook]:
    """Return the hooks of a parameter that step it in backward."""
    hooks = getattr(param, "_post_accumulate_grad_hooks", None) or {}
    return [hook for hook in hooks.values() if isinstance(hook, StepHook)]


def can_be_hooked(param: Tensor) -> bool:
    """Say whether torch calls hooks of a parameter when its gradient is complete."""
    return param.is_leaf and (param.is_floating_point() or param.is_complex())
