"""The contract with torch: groups, state, hooks, AMP and checkpoints, for all rules in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from operator import is_
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from thalweg import checkpoint
from thalweg.codecs import codec_of
from thalweg.layout import overlaps_itself
from thalweg.plan import Member, Plan
from thalweg.rule import Rule
from thalweg.state import prepare
from thalweg.tensors import Tensors

Params = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]

# Training loops that step parts of a model in turn need a plan for each part.
_MOST_PLANS = 16


class Optimizer(torch.optim.Optimizer):
    """A `torch.optim.Optimizer` that steps all parameters of all groups by its `rule`.

    Subclasses name their rule and a constructor.

    Args:
        params: parameters, named parameters, or groups, as in torch.
        defaults: the hyperparameters of groups that do not say otherwise.

    Raises:
        ValueError, TypeError: if a hyperparameter is not allowed; the message says what is.
    """

    rule: ClassVar[Rule]

    # GradScaler then leaves unscaling and skipping to `step`. On the class: an attribute of the
    # instance would be lost by deepcopy and pickle.
    _step_supports_amp_scaling = True

    def __init__(self, params: Params, defaults: dict[str, Any]) -> None:
        self.rule.check(defaults)
        self._forget_plans()
        super().__init__(params, defaults)

    def _forget_plans(self) -> None:
        self._plans: dict[Any, Plan] = {}
        self._listed: list[Tensor] = []
        self._known_state: list[dict[str, Any]] = []

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._forget_plans()
        for group in self.param_groups:
            for name, default in self.defaults.items():
                group.setdefault(name, default)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, as in torch; hyperparameters are checked first."""
        if isinstance(param_group, dict):
            self.rule.check({**self.defaults, **param_group})
        super().add_param_group(param_group)
        if self.rule.eager:
            group = self.param_groups[-1]
            on = self.rule.flags(_numbers(self.rule, group))
            for param in group["params"]:
                prepare(self.rule, on, param, self.state[param], group)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step every parameter that has a gradient.

        Under a `torch.amp.GradScaler` gradients are unscaled on the way, and an overflow leaves
        parameters and state as they are.

        Args:
            closure: evaluates the model again and returns the loss.

        Returns:
            What `closure` returned, else None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.set_grad_enabled(self.defaults.get("differentiable", False)):
            self._step()
        return loss

    def _step(self) -> None:
        found_inf = getattr(self, "found_inf", None)
        if found_inf is not None and float(found_inf) != 0:
            return
        scale = getattr(self, "grad_scale", None)
        inverse_scale = None if scale is None else 1.0 / float(scale)
        self._notice_changes()
        self._tensors.read()
        hypers = [_numbers(self.rule, group) for group in self.param_groups]
        plan = self._plan(hypers, inverse_scale is not None)
        plan.run(hypers, inverse_scale)

    def _notice_changes(self) -> None:
        """Drop the plans if groups or state are not what they were made for."""
        listed = list(chain.from_iterable(group["params"] for group in self.param_groups))
        same = len(listed) == len(self._listed) and all(map(is_, listed, self._listed))
        if not same or not checkpoint.is_same(self._known_state, list(self.state.values())):
            self._plans.clear()
        if not same:
            self._listed = listed
            # A parameter that is listed twice belongs to the first place and is stepped once.
            places = {
                param: i
                for i, group in reversed(list(enumerate(self.param_groups)))
                for param in group["params"]
            }
            self._tensors = Tensors(list(dict.fromkeys(listed)))
            self._group_of = [places[param] for param in self._tensors.params]

    def _plan(self, hypers: list[Any], unscale: bool) -> Plan:
        """Return a plan that fits this step: a known one, if there is one."""
        flags = [self.rule.flags(h) for h in hypers]
        key = (
            self._tensors.kinds.tobytes(),
            tuple(
                (*on.values(), group["maximize"], group["differentiable"])
                for on, group in zip(flags, self.param_groups, strict=True)
            ),
            unscale,
        )
        plan = self._plans.get(key)
        if plan is not None and plan.read(self._tensors):
            return plan
        self._check()
        plan = Plan(self.rule, self._members(flags), unscale)
        self._known_state = [dict(state) for state in self.state.values()]
        if len(self._plans) >= _MOST_PLANS:
            self._plans.pop(next(iter(self._plans)))
        self._plans[key] = plan
        if not plan.read(self._tensors):
            raise RuntimeError("a new plan does not fit the gradients that it was made for")
        return plan

    def _check(self) -> None:
        """Raise if a parameter or its gradient cannot be stepped. Nothing has been changed then."""
        for i, param in enumerate(self._tensors.params):
            grad = param.grad
            if grad is None:
                continue
            name = f"parameter {i} of shape {tuple(param.shape)}"
            if codec_of(param.dtype) is None:
                raise TypeError(f"{name} must be floating point or complex, not {param.dtype}")
            if codec_of(grad.dtype) is None or grad.is_complex() != param.is_complex():
                raise TypeError(f"{name} is {param.dtype} and cannot take a {grad.dtype} gradient")
            if grad.shape != param.shape:
                raise ValueError(f"{name} has a gradient of shape {tuple(grad.shape)}")
            if grad.layout not in (torch.strided, torch.sparse_coo):
                raise ValueError(f"{name} has a {grad.layout} gradient; strided or COO is allowed")
            if param.layout != torch.strided or overlaps_itself(param):
                raise ValueError(
                    f"{name} has several elements in one place of memory (strides "
                    f"{param.stride()}), as `expand` makes; step the tensor behind it"
                )

    def _members(self, flags: list[dict[str, bool]]) -> list[Member]:
        members = []
        for position, param in enumerate(self._tensors.params):
            if param.grad is None:
                continue
            index = self._group_of[position]
            on, group = flags[index], self.param_groups[index]
            stateful = self.rule.counters or self.rule.slots_on(on)
            state = self.state[param] if stateful else {}
            first = prepare(self.rule, on, param, state, group)
            members.append(Member(position, param, index, on, group, state, first))
        return members

    def state_dict(self) -> dict[str, Any]:
        """Return a snapshot of state and groups in torch's layout, which `torch.optim` loads.

        Its tensors are copies: later steps do not change it.
        """
        return checkpoint.snapshot(super().state_dict())

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load a checkpoint of this optimizer or of its `torch.optim` namesake.

        Parameters are matched by name where both sides were given the same names, in whatever order
        or groups, and else by position. State takes the dtype that this optimizer keeps it in.
        Hyperparameters come from the checkpoint; `foreach`, `fused`, `capturable` and
        `differentiable` stay as they were constructed.

        Raises:
            ValueError: if parameters cannot be matched or a hyperparameter is not allowed. The
                optimizer is then as it was.
        """
        state_dict = dict(state_dict)
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            changed = pre_hook(self, state_dict)
            state_dict = state_dict if changed is None else dict(changed)
        state, groups = checkpoint.load(self.rule, self.param_groups, state_dict)
        self.__setstate__({"state": state, "param_groups": groups})
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)


def _numbers(rule: Rule, group: Mapping[str, Any]) -> SimpleNamespace:
    """Return a group's hyperparameters with tensors read out."""
    return SimpleNamespace(**{hyper.name: _number(group[hyper.name]) for hyper in rule.hypers})


def _number(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.item()
    if isinstance(value, (tuple, list)):
        return tuple(map(_number, value))
    return value
