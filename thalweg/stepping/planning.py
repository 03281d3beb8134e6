"""How a plan is found that fits a step: a known one, one that another optimizer hands on, or a new one."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch

from thalweg.lowering.look import fields
from thalweg.lowering.look.look import Seen
from thalweg.stepping import gradients
from thalweg.stepping.batches import State
from thalweg.stepping.making import Maker, publish
from thalweg.stepping.plain import prepare_plain
from thalweg.stepping.plan import Plan
from thalweg.stepping.pool import POOL, is_as_made, key_of
from thalweg.stepping.rests import Rests
from thalweg.stepping.roster import Roster
from thalweg.stepping.settings import AllSettings, Groups, RecipeOf, SettingsReader
from thalweg.stepping.state import prepare

# Training loops that change back and forth between a few ways to step need a plan for each.
_MOST_PLANS = 16


class Planner:
    """Finds plans for an optimizer's steps, and remembers them.

    Args:
        recipe_of: what the steps of a group are made by.
        rests: what rows have missed.

    Attributes:
        plan: of the last step; None, if there is none any more.
        roster: the parameters.
    """

    def __init__(self, recipe_of: RecipeOf, rests: Rests) -> None:
        # First: what is interrupted before the end is released all the same.
        self.plan: Plan | None = None
        self._token = object()
        self._plans: dict[Any, Plan] = {}
        self.roster = Roster()
        self._settings = SettingsReader(recipe_of)
        self._maker = Maker(self.roster, rests)
        self._is_new = True

    def __del__(self) -> None:
        plan = vars(self).get("plan")
        if plan is not None and plan.owner is vars(self).get("_token"):
            plan.release()

    def is_usable(self, plan: Plan, unscale: bool) -> bool:
        """Say whether a plan is ours, and for steps that unscale, if they are to."""
        return plan.is_of(self._token) and plan.unscale == unscale and not _is_dispatching()

    def fits(self, plan: Plan, groups: Groups, state: State) -> bool:
        """Say whether a plan fits this step; it then has the settings of now.

        Gradients of DTensors that lie otherwise than these are brought first.
        """
        if self._fits(plan, groups, state):
            return True
        if not plan.has_shards:
            return False
        gradients.bring(self.roster.params)
        plan.follow_gradients()
        return self._fits(plan, groups, state)

    def _fits(self, plan: Plan, groups: Groups, state: State) -> bool:
        seen = plan.fits(groups, state)
        if seen & Seen.OTHER:
            return False
        if not (seen & Seen.VALUES or plan.settings.is_volatile):
            return True
        settings = self._read(groups)
        if settings.key != plan.settings.key:
            return False
        plan.settings = settings
        if seen & Seen.VALUES:
            plan.note_values(groups)
        return True

    def find(self, groups: Groups, state: State, unscale: bool) -> Plan:
        """Return a plan that fits this step: a known one, if there is one."""
        self._arrange(groups)
        settings = self._read(groups)
        for i, param in enumerate(self.roster.params):
            gradients.check(i, param)
        gradients.bring(self.roster.params)
        self.roster.note_gradients()
        is_apart = unscale or _is_dispatching()
        common = None if is_apart else self._common(groups, state, settings)
        if common is not None and self._take_over(common, groups, state, settings):
            assert self.plan is not None, "it was taken over"
            return self.plan
        if not is_apart and self._aim_anew(groups, state, settings):
            assert self.plan is not None, "it was aimed anew"
            return self.plan
        plan = self._known_or_new(groups, state, settings, unscale)
        if common is not None and plan.can_be_handed_on:
            plan.prepare_to_be_handed_on()
            POOL.put(common, plan)
        self.plan = plan
        return plan

    def _arrange(self, groups: Groups) -> None:
        """Follow the parameters to their places in the groups, and drop the plans if there are new ones."""
        if self.roster.arrange(groups):
            self._plans.clear()
            self.plan = None

    def _read(self, groups: Groups) -> AllSettings:
        """Return settings, if what has changed in them since construction still lets rows catch up."""
        settings = self._settings.read(groups)
        for one in settings.groups:
            said = one.recipe.unrest(one.hypers) if one.recipe.catches_up else None
            if said:
                raise ValueError(said)
        return settings

    def _known_or_new(self, groups: Groups, state: State, settings: AllSettings, unscale: bool) -> Plan:
        is_dispatching = _is_dispatching()
        key = (tuple(self.roster.gradients), settings.key, unscale, is_dispatching)
        plan = self._plans.get(key)
        if plan is not None and plan is not self.plan and self._fits(plan, groups, state):
            return plan
        may_look = _can_look(groups, state) and not is_dispatching
        with torch.set_grad_enabled(_is_differentiable(groups)):
            plan = self._maker.make(groups, state, settings, unscale, may_look, self.plan)
        key = (tuple(self.roster.gradients), *key[1:])  # a plan may leave some out
        self._plans.pop(key, None)
        if len(self._plans) >= _MOST_PLANS:
            self._plans.pop(next(iter(self._plans)))
        self._plans[key] = plan
        plan.owner = self._token
        return plan

    def follow_a_checkpoint(self) -> bool:
        """Take note that all state was loaded, and is not new; say whether the plan may serve on."""
        self.roster.firsts[:] = 0
        return self.plan is not None and self.plan.is_of(self._token) and self.plan.can_be_handed_on

    def _aim_anew(self, groups: Groups, state: State, settings: AllSettings) -> bool:
        """Go on by the plan, if groups and state are other objects, but alike; say whether that is so."""
        plan = self.plan
        if plan is None or not (plan.is_of(self._token) and plan.can_be_handed_on):
            return False
        same = plan.settings.key == settings.key and None not in self.roster.gradients
        if not (same and _can_look(groups, state) and is_as_made(state, self.roster.params)):
            return False
        return plan.take_over(self._token, groups, state, self.roster.params, settings, self.roster.firsts)

    def _common(self, groups: Groups, state: State, settings: AllSettings) -> Hashable | None:
        """Return what plans are handed on by, of an optimizer that has not been stepped before."""
        roster = self.roster
        is_new, self._is_new = self._is_new, False
        complete = None not in roster.gradients and all(p.grad is not None for p in roster.params)
        if not (is_new and complete and _can_look(groups, state) and is_as_made(state, roster.params)):
            return None
        return key_of(groups, settings, roster.params, roster.group_of)

    def _take_over(self, common: Hashable, groups: Groups, state: State, settings: AllSettings) -> bool:
        """Step on by the plan of another optimizer, if one is offered that fits."""
        roster = self.roster
        plan = POOL.take(common)
        if plan is None:
            return False
        plan.prepare_to_take_over()
        owns: list[dict[str, Any] | None] = []
        for i, (param, (on, codecs)) in enumerate(zip(roster.params, plan.codecs, strict=True)):
            own = dict(state.get(param, {}))
            recipe = settings.groups[roster.group_of[i]].recipe
            if len(codecs) > 1 or recipe.counters:
                first = prepare_plain(recipe, on, param, own, groups[roster.group_of[i]], codecs)
                if first is None:
                    return False
                roster.firsts[i] |= first
            owns.append(own or None)
        publish(roster.params, owns, state)
        if not plan.take_over(self._token, groups, state, roster.params, settings, roster.firsts):
            return False
        self.plan = plan
        POOL.put(common, plan)
        return True

    def prepare(self, groups: Groups, state: State) -> None:
        """Make the state that a first step would make, of every parameter that trains; nothing is stepped.

        Args:
            groups: torch's `param_groups`.
            state: torch's `state`; what is there stays.
        """
        self._arrange(groups)
        roster, settings = self.roster, self._read(groups)
        owns: list[dict[str, Any] | None] = []
        firsts = roster.firsts.copy()
        for i, param in enumerate(roster.params):
            one, group = settings.groups[roster.group_of[i]], groups[roster.group_of[i]]
            if not param.requires_grad or not gradients.can_step(param):
                owns.append(None)
                continue
            own = dict(state.get(param, {}))
            firsts[i] |= prepare(one.recipe, one.on, param, own, group)
            owns.append(own or None)
        roster.firsts[:] = firsts
        publish(roster.params, owns, state)


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
