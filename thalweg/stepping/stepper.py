"""The way of one step: see that nothing has changed, or find or make a plan; run it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from thalweg.distributed.parts import brought, is_cut_alike, is_dtensor, part_of
from thalweg.lowering.gpu.tables import Shared
from thalweg.lowering.look import fields
from thalweg.lowering.look.look import Look, Seen, is_watched
from thalweg.stepping.batches import Making, State
from thalweg.stepping.guard import Guard
from thalweg.stepping.member import Gradient, Member, Sort
from thalweg.stepping.parts import Parts
from thalweg.stepping.plan import Plan
from thalweg.stepping.pool import POOL, is_as_made, key_of
from thalweg.stepping.rests import Rests
from thalweg.stepping.scaling import NO_SCALING, Scaling
from thalweg.stepping.settings import AllSettings, Groups, RecipeOf, SettingsReader
from thalweg.stepping.shards import is_stepped_in_shards
from thalweg.stepping.stall import FirstSteps
from thalweg.stepping.state import prepare, prepare_plain
from thalweg.storage.choices import (
    SMALL,
    asks_for_means,
    codec_of_weights,
    codecs_of_slots,
    has_blocks,
    refuse_sparse_means,
    rows_are_blocks,
)
from thalweg.storage.codecs import Codec, codec_of
from thalweg.storage.layout import has_rows, has_version, is_plain, overlaps_itself

# Training loops that change back and forth between a few ways to step need a plan for each.
_MOST_PLANS = 16


class Stepper:
    """Steps an optimizer's parameters, and remembers between steps what stays alike.

    Args:
        recipe_of: what the steps of a group are made by.
        rests: what rows have missed.
    """

    def __init__(self, recipe_of: RecipeOf, rests: Rests) -> None:
        # First: what is interrupted before the end is released all the same.
        self._plan: Plan | None = None
        self._token = object()
        self._plans: dict[Any, Plan] = {}
        self._params: list[Tensor] = []
        self._group_of: list[int] = []
        self._gradients: list[Gradient | None] = []
        self._firsts = np.zeros(0, np.int32)
        self._shared = Shared()
        self._settings = SettingsReader(recipe_of)
        self._first_steps = FirstSteps()
        self.guard = Guard()
        self._is_new = True
        self._rests = rests
        self._repeats = False

    def __del__(self) -> None:
        plan = vars(self).get("_plan")
        if plan is not None and plan.owner is vars(self).get("_token"):
            plan.release()

    def step(self, groups: Groups, state: State, scaling: Scaling, parts: Parts | None = None) -> None:
        """Step every parameter that has a gradient.

        Args:
            groups: torch's `param_groups`.
            state: torch's `state`; what is missing is made.
            scaling: GradScaler's; gradients are unscaled and written back, if they carry its scale.
            parts: of the step that this is a part of, whose draws `count` counts at its end; None, if it is
                whole.

        Raises:
            TypeError, ValueError: if a parameter or gradient cannot be stepped. Nothing has been
                changed then.
        """
        groups = groups if type(groups) is list else list(groups)
        self._shared.sendings = 1
        if parts is not None:
            parts.taken += 1
            self._shared.sendings = parts.taken
        if self._repeats and scaling is NO_SCALING and self._repeat(groups, state, parts):
            return
        unscale = scaling.scale is not None
        while True:
            plan = self._plan
            usable = plan is not None and self._is_usable(plan, unscale)
            if plan is None or not usable or not self._fits_gradients(plan, groups, state):
                plan = self._find(groups, state, unscale)
            if not plan.skips and scaling.overflowed:
                return
            first = self._first_steps.before(groups)
            plan.stages.parts = parts
            ran = self._run(plan, groups, state, scaling)
            if ran is not None:
                scaling = ran
                break
            # Another thread has changed something since it was looked at.
            self._first_steps.again(first)
        if first and scaling.overflowed:
            self._first_steps.again(first)
        else:
            self._first_steps.after(groups, first)
        if not (plan.stages and plan.is_forbidden(scaling)):
            drawing = plan.drawing()
            if parts is not None:
                parts.drawn.update(drawing)
            elif drawing and _count_draws([groups[index] for index in drawing], scaling):
                plan.note_values(groups)
            self._repeats = plan.can_be_repeated and self._first_steps.is_done(groups)
        if plan.stages.refused is not None:
            self.guard.notice(plan.stages.refused, groups)

    @staticmethod
    def count(groups: Groups, parts: Parts) -> None:
        """Count a step as one that has drawn, at the end of its parts."""
        _count_draws([groups[index] for index in sorted(parts.drawn)], NO_SCALING)

    def prepare(self, groups: Groups, state: State) -> None:
        """Make the state that a first step would make, of every parameter that trains; nothing is stepped.

        Args:
            groups: torch's `param_groups`.
            state: torch's `state`; what is there stays.
        """
        self._arrange(groups)
        settings = _settled(self._settings.read(groups))
        owns: list[dict[str, Any] | None] = []
        firsts = self._firsts.copy()
        for i, param in enumerate(self._params):
            one, group = settings.groups[self._group_of[i]], groups[self._group_of[i]]
            if not param.requires_grad or not _can_step(param):
                owns.append(None)
                continue
            own = dict(state.get(param, {}))
            firsts[i] |= prepare(one.recipe, one.on, param, own, group)
            owns.append(own or None)
        self._firsts[:] = firsts
        _publish(self._params, owns, state)

    def statistics(self, groups: Groups) -> list[dict[str, Tensor]]:
        """Return what the last step measured for the user, group by group."""
        return [] if self._plan is None else self._plan.stages.by_group(len(groups))

    def _repeat(self, groups: Groups, state: State, parts: Parts | None) -> bool:
        """Take the last step again, if nothing has changed since; say whether that is so."""
        plan = self._plan
        if plan is None or not self._is_usable(plan, False):
            return False
        if not plan.stages:
            return plan.run_if_same(groups, state)
        plan.stages.parts = parts
        taken = plan.measure_and_run_if_same(groups, state, NO_SCALING) is not None
        if taken and plan.stages.refused is not None:
            self.guard.notice(plan.stages.refused, groups)
        return taken

    def _is_usable(self, plan: Plan, unscale: bool) -> bool:
        return plan.is_of(self._token) and plan.unscale == unscale and not _is_dispatching()

    @staticmethod
    def _run(plan: Plan, groups: Groups, state: State, scaling: Scaling) -> Scaling | None:
        """Run a plan that fits, unless something has changed since that was seen.

        Returns:
            What `Plan.run` returns; None if it did not run.
        """
        if plan.is_bare:
            return plan.measure_and_run_if_same(groups, state, scaling)
        with torch.set_grad_enabled(plan.is_differentiable):
            return plan.run(scaling, state)

    def _fits_gradients(self, plan: Plan, groups: Groups, state: State) -> bool:
        """Do what `_fits` does; gradients of DTensors that lie otherwise than these are brought first."""
        if self._fits(plan, groups, state):
            return True
        if not plan.has_shards:
            return False
        _bring_gradients(self._params)
        plan.follow_gradients()
        return self._fits(plan, groups, state)

    def _fits(self, plan: Plan, groups: Groups, state: State) -> bool:
        """Say whether a plan fits this step; it then has the settings of now."""
        seen = plan.fits(groups, state)
        if seen & Seen.OTHER:
            return False
        if not (seen & Seen.VALUES or plan.settings.is_volatile):
            return True
        settings = _settled(self._settings.read(groups))
        if settings.key != plan.settings.key:
            return False
        plan.settings = settings
        if seen & Seen.VALUES:
            plan.note_values(groups)
        return True

    def _find(self, groups: Groups, state: State, unscale: bool) -> Plan:
        """Return a plan that fits this step: a known one, if there is one."""
        self._arrange(groups)
        settings = _settled(self._settings.read(groups))
        for i, param in enumerate(self._params):
            _check(i, param)
        _bring_gradients(self._params)
        self._note_gradients()
        is_dispatching = _is_dispatching()
        common = self._common(groups, state, settings) if not (unscale or is_dispatching) else None
        if common is not None and self._take_over(common, groups, state, settings):
            assert self._plan is not None, "it was taken over"
            return self._plan
        if not (unscale or is_dispatching) and self._aim_anew(groups, state, settings):
            assert self._plan is not None, "it was aimed anew"
            return self._plan
        key = (tuple(self._gradients), settings.key, unscale, is_dispatching)
        plan = self._plans.get(key)
        if plan is None or plan is self._plan or not self._fits(plan, groups, state):
            with torch.set_grad_enabled(_is_differentiable(groups)):
                plan = self._make(
                    groups, state, settings, unscale, _can_look(groups, state) and not is_dispatching
                )
            key = (tuple(self._gradients), *key[1:])  # a plan may leave some out
            self._plans.pop(key, None)
            if len(self._plans) >= _MOST_PLANS:
                self._plans.pop(next(iter(self._plans)))
            self._plans[key] = plan
            plan.owner = self._token
            if common is not None and plan.can_be_handed_on:
                plan.prepare_to_be_handed_on()
                POOL.put(common, plan)
        self._plan = plan
        return plan

    def follow_a_checkpoint(self) -> bool:
        """Take note that all state was loaded, and is not new; say whether the plan may serve on."""
        self._firsts[:] = 0
        self._repeats = False
        return self._plan is not None and self._plan.is_of(self._token) and self._plan.can_be_handed_on

    def _aim_anew(self, groups: Groups, state: State, settings: AllSettings) -> bool:
        """Go on by the plan, if groups and state are other objects, but alike; say whether that is so."""
        plan = self._plan
        if plan is None or not (plan.is_of(self._token) and plan.can_be_handed_on):
            return False
        same = plan.settings.key == settings.key and None not in self._gradients
        if not (same and _can_look(groups, state) and is_as_made(state, self._params)):
            return False
        return plan.take_over(self._token, groups, state, self._params, settings, self._firsts)

    def _common(self, groups: Groups, state: State, settings: AllSettings) -> Hashable | None:
        """Return what plans are handed on by, of an optimizer that has not been stepped before."""
        is_new, self._is_new = self._is_new, False
        complete = None not in self._gradients and all(p.grad is not None for p in self._params)
        if not (is_new and complete and _can_look(groups, state) and is_as_made(state, self._params)):
            return None
        return key_of(groups, settings, self._params, self._group_of)

    def _take_over(self, common: Hashable, groups: Groups, state: State, settings: AllSettings) -> bool:
        """Step on by the plan of another optimizer, if one is offered that fits."""
        plan = POOL.take(common)
        if plan is None:
            return False
        plan.prepare_to_take_over()
        owns: list[dict[str, Any] | None] = []
        for i, (param, (on, codecs)) in enumerate(zip(self._params, plan.codecs, strict=True)):
            own = dict(state.get(param, {}))
            recipe = settings.groups[self._group_of[i]].recipe
            if len(codecs) > 1 or recipe.counters:
                first = prepare_plain(recipe, on, param, own, groups[self._group_of[i]], codecs)
                if first is None:
                    return False
                self._firsts[i] |= first
            owns.append(own or None)
        _publish(self._params, owns, state)
        if not plan.take_over(self._token, groups, state, self._params, settings, self._firsts):
            return False
        self._plan = plan
        POOL.put(common, plan)
        return True

    def _note_gradients(self) -> None:
        """Take note of what gradients are; of one that is missing, what it was."""
        for i, param in enumerate(self._params):
            grad = param.grad
            if grad is not None:
                self._gradients[i] = Gradient.of(grad)
            elif not _can_step(param):
                self._gradients[i] = None

    def _arrange(self, groups: Groups) -> None:
        """Follow the parameters to their places in the groups, and drop the plans if there are new ones."""
        # A parameter that is listed twice belongs to the first place and is stepped once.
        places: dict[int, tuple[Tensor, int]] = {}
        for i, group in enumerate(groups):
            for param in group["params"]:
                places.setdefault(id(param), (param, i))
        group_of = [i for _, i in places.values()]
        if group_of == self._group_of and list(places) == list(map(id, self._params)):
            return
        before = {id(param): i for i, param in enumerate(self._params)}
        origins = [before.get(one, -1) for one in places]
        self._shared.rearrange(origins)
        firsts, gradients = [*self._firsts.tolist(), 0], [*self._gradients, None]
        self._firsts = np.array([firsts[origin] for origin in origins], np.int32)
        self._gradients = [gradients[origin] for origin in origins]
        self._params = [param for param, _ in places.values()]
        self._group_of = group_of
        self._plans.clear()
        self._plan = None

    def _make(
        self, groups: Groups, state: State, settings: AllSettings, unscale: bool, may_look: bool
    ) -> Plan:
        """Make a plan and what state is missing. Until all of it is there nothing is changed."""
        members, owns = [], []
        sorts = _Sorts(groups, settings, may_look)
        for position in range(len(self._params)):
            if self._gradients[position] is None:
                continue
            try:
                member, own = self._member(position, state, sorts)
            except (TypeError, ValueError):
                if self._params[position].grad is not None:
                    raise
                self._gradients[position] = None  # without one, what state there is need not fit
                continue
            members.append(member)
            owns.append(own)
        idle = [p for p, gradient in zip(self._params, self._gradients, strict=True) if gradient is None]
        plan = Plan(Making(self._firsts, unscale, self._rests), members, idle, settings)
        # Before the state is there: if interrupted in between, it must not pass for one that was stepped.
        for member in members:
            if member.first:
                self._firsts[member.position] = 1
        _publish([member.param for member in members], owns, state)
        if not may_look:
            return plan
        look = Look(groups, state, plan.watched)
        if not look.complete:
            return self._make(groups, state, settings, unscale, may_look=False)
        if self._plan is not None and self._plan.seen is not None:
            before = self._plan.gradients
            alike = {id(m.param) for m in members if before.get(id(m.param)) == m.sort.gradient}
            look.expect(self._plan.seen, alike)
        plan.connect(look, state)
        if plan.fits(groups, state) & Seen.OTHER:
            raise RuntimeError("a new plan does not fit the tensors that it was made for")
        return plan

    def _member(self, position: int, state: State, sorts: _Sorts) -> tuple[Member, dict[str, Any] | None]:
        """Return a member and the state that it is to have, None if it needs none."""
        param, gradient = self._params[position], self._gradients[position]
        assert gradient is not None, "the caller has asked"
        sort = sorts.of(param, gradient, self._group_of[position])
        own, first = None, bool(self._firsts[position])
        if sort.has_state:
            own = dict(state.get(param, {}))
            prepared, is_plain_state = _prepared(position, param, sort, own)
            first |= prepared
            if sort.has_memory and not is_plain_state and not all(map(is_watched, _tensors(own))):
                sort = sorts.of(param, gradient, self._group_of[position], may_have_memory=False)
        return Member(position, param, sort, first, self._shared), own


def _publish(params: Sequence[Tensor], owns: Sequence[dict[str, Any] | None], state: State) -> None:
    for param, own in zip(params, owns, strict=True):
        if own is None:
            continue
        known = state.setdefault(param, {})
        if len(known) and known.keys() != own.keys():
            for name in known.keys() - own.keys():
                del known[name]
        known.update(own)


class _Sorts:
    """The sorts that parameters are of, each once.

    Args:
        groups: the groups.
        settings: theirs.
        may_look: whether what is memory can be looked at.
    """

    def __init__(self, groups: Groups, settings: AllSettings, may_look: bool) -> None:
        self._groups, self._settings, self._may_look = groups, settings, may_look
        pairs = zip(settings.groups, groups, strict=True)
        self._choices = [one.recipe.choices(group) for one, group in pairs]
        pairs = zip(settings.groups, groups, strict=True)
        self._has_means = [asks_for_means(one.recipe, group) is not None for one, group in pairs]
        self._known: dict[Any, Sort] = {}

    def of(self, param: Tensor, gradient: Gradient, group: int, may_have_memory: bool = True) -> Sort:
        """Return the sort of a parameter with such gradients in the group of that index."""
        has_memory = may_have_memory and self._may_look and is_watched(param)
        is_shard = is_stepped_in_shards(param, self._groups[group])
        part = part_of(param) if is_shard else param
        is_contiguous = param.is_contiguous() and part.is_contiguous() and is_plain(part)
        in_blocks = rows_are_blocks(param) if gradient.is_sparse else has_blocks(param)
        shape: tuple[bool, ...] = ()
        if self._has_means[group] and param.dim() > 1:
            shape = (True, rows_are_blocks(param), has_rows(param))
        kind = (group, param.dtype, param.device, param.numel() >= SMALL, type(param), in_blocks, shape)
        key = (*kind, gradient, has_memory, is_contiguous)
        sort = self._known.get(key)
        if sort is None:
            codecs = self._codecs(param, group, gradient.sparse_dims)
            one, options = self._settings.groups[group], self._groups[group]
            sort = Sort(
                *(one.recipe, gradient, group, one.on, options, self._choices[group]),
                *(is_contiguous, has_memory, codecs, param.dtype, param.device, is_shard),
                has_rows=has_rows(param),
            )
            per = None if sort.mean is None else sort.mean.per
            refuse_sparse_means(one.recipe, options, per, gradient.sparse_dims)
            self._known[key] = sort
        return sort

    def _codecs(self, param: Tensor, group: int, sparse: int) -> dict[str, Codec]:
        options, one = self._groups[group], self._settings.groups[group]
        slots = codecs_of_slots(one.recipe.slots_on(one.on), param, options, sparse)
        return {"p": codec_of_weights(param, options), **slots}


def _prepared(position: int, param: Tensor, sort: Sort, own: dict[str, Any]) -> tuple[bool, bool]:
    """Make what is missing in `own`; say whether something was, and whether all of it is plain memory."""
    plain = dict(own)
    first = prepare_plain(sort.recipe, sort.on, param, plain, sort.options, sort.codecs)
    if first is not None:
        own.update(plain)
        return first, len(own) == len(sort.stored_keys) + len(sort.recipe.counters)
    try:
        return prepare(sort.recipe, sort.on, param, own, sort.options, sort.gradient.sparse_dims), False
    except ValueError as error:
        raise ValueError(f"{_name(position, param)}: {error}") from None


def _bring_gradients(params: Sequence[Any]) -> None:
    """Exchange gradients that are placed otherwise than their parameters, in the order of all processes."""
    for param in params:
        grad = param.grad if is_dtensor(param) else None
        if not is_dtensor(grad) or grad.device_mesh != param.device_mesh:
            continue
        if not (is_cut_alike(grad, param) and type(part_of(grad)) is Tensor):
            with torch.no_grad():
                param.grad = brought(grad, param)


def _is_dispatching() -> bool:
    """Say whether operations of torch's are to be seen by somebody, such as a FakeTensorMode."""
    return torch._C._len_torch_dispatch_stack() > 0


def _is_differentiable(groups: Groups) -> bool:
    return any(group.get("differentiable") for group in groups)


def _can_look(groups: Groups, state: State) -> bool:
    """Say whether groups and state are such as torch makes, and libtorch such as we know it."""
    plain = isinstance(state, dict) and all(
        isinstance(group, dict) and type(group["params"]) is list for group in groups
    )
    return plain and fields.known() is not None


def _settled(settings: AllSettings) -> AllSettings:
    """Return settings, if what has changed in them since construction still lets rows catch up."""
    for one in settings.groups:
        said = one.recipe.unrest(one.hypers) if one.recipe.catches_up else None
        if said:
            raise ValueError(said)
    return settings


def _tensors(own: Mapping[str, Any] | None) -> list[Tensor]:
    return [] if own is None else [value for value in own.values() if isinstance(value, Tensor)]


def _count_draws(groups: Sequence[dict[str, Any]], scaling: Scaling) -> bool:
    """Count a step that has drawn; on a device, where it is counted there, only if it was taken.

    Returns:
        Whether an entry of a group has been exchanged.
    """
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
    return sum(map(len, on_devices.values())) < len(groups)


def _name(position: int, param: Tensor) -> str:
    return f"parameter {position} of shape {tuple(param.shape)}"


def _can_step(param: Tensor) -> bool:
    if is_lazy(param):
        return False  # it has no shape to ask for
    return codec_of(param.dtype) is not None and param.layout == torch.strided and not overlaps_itself(param)


def _check(position: int, param: Tensor) -> None:
    """Raise if a parameter has a gradient that it cannot be stepped with."""
    grad: Any = param.grad
    if grad is None:
        return
    if codec_of(param.dtype) is None:
        raise TypeError(f"{_name(position, param)} must be floating point or complex, not {param.dtype}")
    if codec_of(grad.dtype) is None or grad.is_complex() != param.is_complex():
        raise TypeError(f"{_name(position, param)} is {param.dtype} and cannot take a {grad.dtype} gradient")
    if is_dtensor(grad) != is_dtensor(param):
        kinds = [type(one).__name__ for one in (param, grad)]
        raise TypeError(
            f"{_name(position, param)} is a {kinds[0]} and cannot take a {kinds[1]} as its gradient"
        )
    if is_dtensor(param) and grad.device_mesh != param.device_mesh:
        raise ValueError(
            f"{_name(position, param)} lies on {param.device_mesh}, its gradient on {grad.device_mesh}; "
            "both must lie on the same mesh"
        )
    if grad.shape != param.shape:
        raise ValueError(f"{_name(position, param)} has a gradient of shape {tuple(grad.shape)}")
    if grad.layout not in (torch.strided, torch.sparse_coo):
        raise ValueError(f"{_name(position, param)} has a {grad.layout} gradient; strided or COO is allowed")
    if param.layout != torch.strided or overlaps_itself(param):
        raise ValueError(
            f"{_name(position, param)} has several elements in one place of memory "
            f"(strides {param.stride()}), as `expand` makes; step the tensor behind it"
        )
    if not (has_version(param) or torch.is_inference_mode_enabled()):
        raise RuntimeError(
            f"{_name(position, param)} was made in inference mode. Inplace update to inference tensor "
            "outside InferenceMode is not allowed; step it there, or step a clone that is made outside"
        )
