"""The way of one step: notice what has changed, find or make a plan, run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from thalweg.codecs import Codec, codec_of
from thalweg.layout import overlaps_itself
from thalweg.lowering.cuda import Shared
from thalweg.lowering.objects import Identities
from thalweg.member import Member
from thalweg.plan import Plan
from thalweg.rule import Rule
from thalweg.scaling import Scaling
from thalweg.settings import AllSettings, Groups, Settings, SettingsReader
from thalweg.stall import FirstSteps
from thalweg.state import prepare
from thalweg.storage import codec_of_slot, codec_of_weights
from thalweg.tensors import Tensors

# Training loops that step parts of a model in turn need a plan for each part.
_MOST_PLANS = 16

State = dict[Any, dict[str, Any]]


class Stepper:
    """Steps an optimizer's parameters, and remembers between steps what stays alike.

    Args:
        rule: the update rule.
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._plans: dict[Any, Plan] = {}
        self._known_groups = Identities([])
        self._listed = Identities([])
        self._lengths: list[int] = []
        self._known_state = Identities([])
        self._tensors, self._shared = Tensors([]), Shared()
        self._settings = SettingsReader(rule)
        self._group_of: list[int] = []
        self._first_steps = FirstSteps()

    def step(self, groups: Groups, state: State, scaling: Scaling) -> None:
        """Step every parameter that has a gradient.

        Args:
            groups: torch's `param_groups`.
            state: torch's `state`; what is missing is made.
            scaling: GradScaler's; gradients are unscaled and written back, if they carry its scale.

        Raises:
            TypeError, ValueError: if a parameter or gradient cannot be stepped. Nothing has been
                changed then.
        """
        self._notice_changes(groups, state)
        self._tensors.read()
        settings = self._settings.read(groups)
        plan = self._plan(groups, state, settings, scaling.scale is not None)
        if not plan.skips and scaling.overflowed:
            return
        first = self._first_steps.before(groups)
        plan.run(settings.hypers, scaling)
        if first and scaling.overflowed:
            self._first_steps.again(first)
        else:
            self._first_steps.after(groups, first)
        if plan.drawing:
            _count_draws([groups[index] for index in plan.drawing], scaling)
            self._settings.counted(groups, plan.drawing)

    def _notice_changes(self, groups: Groups, state: State) -> None:
        """Drop the plans if groups or state are not what they were made for."""
        if not self._known_state.are_values(state):
            self._plans.clear()
        lists = [*map(itemgetter("params"), groups)]
        listed, lengths = [*chain.from_iterable(lists)], [*map(len, lists)]
        same = self._known_groups.are_items(groups) and lengths == self._lengths
        if same and self._listed.are_items(listed):
            return
        self._plans.clear()
        self._settings.forget()
        self._known_groups = Identities(groups)
        self._listed, self._lengths = Identities(listed), lengths
        # A parameter that is listed twice belongs to the first place and is stepped once.
        group_of: dict[Tensor, int] = {}
        for i, group in enumerate(groups):
            for param in group["params"]:
                group_of.setdefault(param, i)
        before = {param: i for i, param in enumerate(self._tensors.params)}
        self._shared.rearrange([before.get(param, -1) for param in group_of])
        self._tensors = Tensors(list(group_of))
        self._group_of = list(group_of.values())

    def _plan(self, groups: Groups, state: State, settings: AllSettings, unscale: bool) -> Plan:
        """Return a plan that fits this step: a known one, if there is one."""
        key = (self._tensors.kinds.tobytes(), settings.key, unscale)
        plan = self._plans.get(key)
        if plan is not None and plan.read(self._tensors):
            return plan
        _check(self._tensors.params)
        before = [(own, dict(own)) for own in state.values()]
        plan = Plan(self._rule, self._members(groups, state, settings.groups), unscale)
        if any(own.get(name) is not value for own, old in before for name, value in old.items()):
            self._plans.clear()  # what they step is no longer the state
        self._known_state = Identities([value for own in state.values() for value in own.values()])
        if len(self._plans) >= _MOST_PLANS:
            self._plans.pop(next(iter(self._plans)))
        self._plans[key] = plan
        if not plan.read(self._tensors):
            raise RuntimeError("a new plan does not fit the gradients that it was made for")
        return plan

    def _members(self, groups: Groups, state: State, settings: Sequence[Settings]) -> list[Member]:
        members = []
        for position, param in enumerate(self._tensors.params):
            if param.grad is None:
                continue
            index = self._group_of[position]
            on, group = settings[index].on, groups[index]
            sparse = param.grad.layout == torch.sparse_coo
            codecs = self._codecs(param, on, group, sparse)
            stateful = self._rule.counters or len(codecs) > 1 or codecs["p"].side is not None
            own = state[param] if stateful else {}
            first = prepare(self._rule, on, param, own, group, sparse)
            members.append(Member(position, param, index, on, group, own, first, codecs, self._shared))
        return members

    def _codecs(
        self, param: Tensor, on: Mapping[str, bool], group: Mapping[str, Any], sparse: bool
    ) -> dict[str, Codec]:
        slots = self._rule.slots_on(on)
        codecs = {slot.name: codec_of_slot(slot, param, group, sparse) for slot in slots}
        return {"p": codec_of_weights(param, group), **codecs}


def _count_draws(groups: Groups, scaling: Scaling) -> None:
    """Count a step that has drawn; on a device, where it is counted there, only if it was taken."""
    on_devices: dict[torch.device, list[Tensor]] = {}
    for group in groups:
        count = group["rounding_step"]
        if isinstance(count, Tensor):
            on_devices.setdefault(count.device, []).append(count)
        else:
            group["rounding_step"] = count + 1
    for device, counts in on_devices.items():
        if isinstance(scaling.found_inf, Tensor):
            taken = (scaling.found_inf == 0).to(device, torch.int64, non_blocking=True)
            torch._foreach_add_(counts, [taken] * len(counts))
        else:
            torch._foreach_add_(counts, 1)


def _check(params: Sequence[Tensor]) -> None:
    for i, param in enumerate(params):
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
                f"{name} has several elements in one place of memory (strides {param.stride()}), "
                "as `expand` makes; step the tensor behind it"
            )
