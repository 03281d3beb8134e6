"""What torch calls when a parameter's gradient is complete, for steps in backward."""

from __future__ import annotations

import weakref
from typing import Protocol

import torch
from torch import Tensor

from thalweg.optimizer.compiling import is_compiling


class Owner(Protocol):
    """Who waits for gradients."""

    def arrived(self, param: Tensor, hook: Hook) -> None:
        """Take note that the gradient of a parameter is complete."""
        ...


class Hook:
    """What torch calls when a parameter's gradient is complete. It does not hold the optimizer.

    Python's garbage collector does not see through the hooks of a tensor: a model and an optimizer that held
    each other would stay forever.
    """

    def __init__(self, owner: Owner, param: Tensor) -> None:
        self.owner = weakref.ref(owner)
        self.size = param.numel() * param.element_size()
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
        elif not any(hook.owner() is not None for hook in hooks_of(param)):
            raise RuntimeError(
                f"the optimizer that stepped a parameter of shape {tuple(param.shape)} in backward is no "
                "more: keep it for as long as you train"
            )

    def remove(self) -> None:
        """Have torch call it no more."""
        self._handle.remove()


def hooks_of(param: Tensor) -> list[Hook]:
    """Return ours of a parameter's hooks."""
    hooks = getattr(param, "_post_accumulate_grad_hooks", None) or {}
    return [hook for hook in hooks.values() if isinstance(hook, Hook)]


def can_be_hooked(param: Tensor) -> bool:
    """Say whether torch calls hooks of a parameter when its gradient is complete."""
    return param.is_leaf and (param.is_floating_point() or param.is_complex())
