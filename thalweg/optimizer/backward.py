"""Steps that are taken while gradients arrive, so that each is freed as soon as it has been used.

A parameter's gradient is complete when its `AccumulateGrad` node has run, which torch tells a hook. What is
complete is stepped in parts, once it makes up some bytes, and the rest at the end of the backward pass: many
small parameters are one part, as they are one launch in a whole step. All parts are those of one step:
counters and draws are what `optimizer.step()` would make of them.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import inf
from typing import Any, Protocol

import torch
from torch import Tensor

from thalweg.optimizer.compiling import uncompiled
from thalweg.optimizer.handles import Handle
from thalweg.optimizer.holding import least_part
from thalweg.optimizer.hooks import StepHook, can_be_hooked, hooks_of
from thalweg.optimizer.obstacles import (
    obstacle_in,
    refuse_compiled_autograd,
    refuse_late_overflows,
    refuse_late_reductions,
    refuse_nested,
    refuse_several_devices,
)
from thalweg.optimizer.unscaling import Unscaling
from thalweg.rule import Recipe
from thalweg.stepping.parts import Parts
from thalweg.stepping.scaling import NO_SCALING, Scaling

_current_task = torch._C._current_graph_task_id

_TAKES_SCALING = "_step_supports_amp_scaling"


class Steps(Protocol):
    """What is stepped in backward: an optimizer."""

    param_groups: list[dict[str, Any]]

    def recipe_of(self, group: Mapping[str, Any]) -> Recipe:
        """Return what the steps of a group are made by."""
        ...

    def step_part(self, parts: Parts) -> None:
        """Step what has a gradient, as a part of a step."""
        ...

    def end_parts(self, parts: Parts) -> None:
        """End a step that was taken in parts."""
        ...


class InBackward(Handle):
    """An optimizer's steps in backward, until `remove()` or, in a `with` statement, the end of the block.

    Made by `Optimizer.in_backward`, which says what it does.
    """

    def __init__(
        self,
        optimizer: Steps,
        every: int,
        hold: int | None,
        clip_by_last_norm: bool,
        scaler: torch.amp.GradScaler | None,
    ) -> None:
        if every < 1 or every != int(every):
            raise ValueError(f"every must be an integer at least 1, not {every!r}")
        if hold is not None and hold < 0:
            raise ValueError(f"hold must be a number of bytes, at least 0, or None, not {hold!r}")
        if scaler is not None and clip_by_last_norm:
            raise ValueError(
                "clip_by_last_norm=True must be without scaler: an overflow would be the last norm"
            )
        self._unscaling = None if scaler is None else Unscaling(scaler)
        self._of = weakref.ref(optimizer)
        self._every, self._hold, self._by_last_norm = every, hold, clip_by_last_norm
        self._hooks: dict[int, StepHook] = {}
        self._task: int | None = None
        self._passes = 0
        self._rests = 0
        self._accumulates = False
        self._complete: dict[int, Tensor] = {}
        self._before: list[Tensor] = []
        self._held, self._most = 0, inf
        self._parts = Parts({})
        self._check()
        self.watch()
        # A scaler that unscales by itself would find no gradients; so it asks us, and hears why not.
        self._took_scaling = vars(optimizer).get(_TAKES_SCALING)
        setattr(optimizer, _TAKES_SCALING, True)

    @property
    def _optimizer(self) -> Steps:
        optimizer = self._of()
        if optimizer is None:
            raise RuntimeError("the optimizer that stepped in backward is no more: keep it while you train")
        return optimizer

    @property
    def is_on(self) -> bool:
        """Whether it steps parameters still."""
        return bool(self._hooks)

    def remove(self) -> None:
        """Leave stepping to `optimizer.step()` again. Gradients that were not stepped stay where they are."""
        optimizer = self._of()
        if optimizer is not None and self._hooks:
            self.settle()
            vars(optimizer).pop(_TAKES_SCALING, None)
            if self._took_scaling is not None:
                setattr(optimizer, _TAKES_SCALING, self._took_scaling)
        self._forget()
        for hook in self._hooks.values():
            hook.remove()
        self._hooks.clear()

    def watch(self) -> None:
        """Hook the parameters that are not hooked yet.

        Raises:
            ValueError: if they lie on several devices, another optimizer steps one in backward, or several
                processes may train them. None is hooked then.
        """
        params = self._params()
        refuse_several_devices(params)
        refuse_late_reductions(params)
        if self._unscaling is not None:
            refuse_late_overflows()
        new = [param for param in params if id(param) not in self._hooks and can_be_hooked(param)]
        for param in new:
            if any(hook.owner() is not None for hook in hooks_of(param)):
                raise ValueError(
                    f"a parameter of shape {tuple(param.shape)} is stepped in backward already: call "
                    "remove() on what in_backward() returned then"
                )
        for param in new:
            self._hooks[id(param)] = StepHook(self, param)

    @contextmanager
    def accumulating(self) -> Iterator[None]:
        """Have backward passes add up gradients, and step nothing, until the end of the `with` block."""
        self._rests += 1
        try:
            yield
        finally:
            self._rests -= 1

    def has_left(self, scaling: Scaling) -> bool:
        """Say whether there may be a gradient that was not stepped, before `optimizer.step()`.

        Raises:
            RuntimeError: if a GradScaler has a part in it that `in_backward()` was not told of.
        """
        if not self.is_on:
            return True
        if scaling is not NO_SCALING and self._unscaling is None:
            raise RuntimeError(
                "in_backward() was not told of this GradScaler, and has stepped all parameters by scaled "
                "gradients: begin again with in_backward(scaler=scaler), or without a scaler, in bfloat16"
            )
        self.settle()
        if scaling is not NO_SCALING and self._unscaling is not None:
            self._unscaling.tell(self._optimizer)
        is_left = any(param.grad is not None for param in self._params())
        if is_left:
            self._passes = 0
        return is_left

    def arrived(self, param: Tensor, hook: StepHook) -> None:
        """Take note that the gradient of a parameter is complete."""
        task = _current_task()
        if task != self._task:
            self._begin(task, param)
        if self._accumulates:
            return
        hooks = param._post_accumulate_grad_hooks
        is_last = len(hooks) == 1 or next(reversed(hooks.values())) is hook
        if not is_last and self._held >= self._most:
            self._step([param])  # others are to see its gradient after us
        self._complete[id(param)] = param
        self._held += hook.size
        if is_last and self._held >= self._most:
            self._step([])

    def _begin(self, task: int, param: Tensor) -> None:
        """Begin a backward pass, with the first gradient that is complete."""
        self.settle()
        refuse_compiled_autograd()
        refuse_nested()
        self._check()
        self._task = task
        if not self._rests:
            self._passes += 1
        self._accumulates = bool(self._rests) or self._passes % self._every != 0
        if self._accumulates:
            return
        # What was accumulated before is complete at the end, if at all, and nothing is freed by then anyway.
        self._before = [one for one in self._params() if one.grad is not None and one is not param]
        self._most = inf if self._before else self._least_part()
        torch.autograd.Variable._execution_engine.queue_callback(self._end)

    def _least_part(self) -> int:
        if self._hold is not None:
            return self._hold
        return least_part(sum(hook.size for hook in self._hooks.values()))

    def _step(self, others: Collection[Tensor]) -> None:
        """Step what is complete, and free its gradients.

        Args:
            others: what else has a gradient, and must not be stepped.
        """
        complete = list(self._complete.values())
        self._complete, self._held = {}, 0
        kept = [(other, other.grad) for other in others]
        try:
            for other in others:
                other.grad = None
            with self._unscaled(complete):
                self._optimizer.step_part(self._parts)
        finally:
            for other, grad in kept:
                other.grad = grad
        for param in complete:
            param.grad = None

    def _unscaled(self, complete: Collection[Tensor]) -> AbstractContextManager[None]:
        return nullcontext() if self._unscaling is None else self._unscaling.of(self._optimizer, complete)

    @uncompiled
    def _end(self) -> None:
        """End a backward pass that has come to its end."""
        if self._task is None or not self._hooks:
            return
        if self._complete:
            self._step([one for one in self._before if id(one) not in self._complete])
        self._close()
        self._parts = self._parts.next()

    def settle(self) -> None:
        """End a backward pass that was broken off: what was stepped has been, and other gradients stay."""
        if self._task is not None and self._task != _current_task():
            self._close()
            self._parts = self._parts.again()

    def _close(self) -> None:
        if not self._accumulates:
            self._optimizer.end_parts(self._parts)
        self._forget()

    def _forget(self) -> None:
        self._task, self._accumulates = None, False
        self._complete, self._before = {}, []
        self._held, self._most = 0, inf

    def _params(self) -> list[Tensor]:
        return [param for group in self._optimizer.param_groups for param in group["params"]]

    def _check(self) -> None:
        """Raise if a group asks for what cannot be had in backward."""
        for group in self._optimizer.param_groups:
            obstacle = obstacle_in(self._optimizer.recipe_of(group), self._by_last_norm)
            if group.get("differentiable"):
                obstacle = "differentiable=True keeps the graph of a step, which is within none in backward"
            if obstacle:
                raise ValueError(f"{obstacle}: step after backward, or leave it out")
