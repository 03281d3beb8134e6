"""The way of one step: see that nothing has changed, or find or make a plan; run it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.stepping.batches import State
from thalweg.stepping.guard import Guard
from thalweg.stepping.parts import Parts
from thalweg.stepping.plan import Plan
from thalweg.stepping.planning import Planner
from thalweg.stepping.rests import Rests
from thalweg.stepping.scaling import NO_SCALING, Scaling
from thalweg.stepping.settings import Groups, RecipeOf
from thalweg.stepping.stall import FirstSteps


class Stepper:
    """Steps an optimizer's parameters, and remembers between steps what stays alike.

    Args:
        recipe_of: what the steps of a group are made by.
        rests: what rows have missed.
    """

    def __init__(self, recipe_of: RecipeOf, rests: Rests) -> None:
        self._planner = Planner(recipe_of, rests)
        self._first_steps = FirstSteps()
        self.guard = Guard()
        self._repeats = False

    @property
    def plan(self) -> Plan | None:
        """The plan of the last step; None, if there is none any more."""
        return self._planner.plan

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
        self._planner.roster.shared.sendings = 1
        if parts is not None:
            parts.taken += 1
            self._planner.roster.shared.sendings = parts.taken
        if self._repeats and scaling is NO_SCALING and self._repeat(groups, state, parts):
            return
        unscale = scaling.scale is not None
        while True:
            plan = self._planner.plan
            usable = plan is not None and self._planner.is_usable(plan, unscale)
            if plan is None or not usable or not self._planner.fits(plan, groups, state):
                plan = self._planner.find(groups, state, unscale)
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

    def _repeat(self, groups: Groups, state: State, parts: Parts | None) -> bool:
        """Take the last step again, if nothing has changed since; say whether that is so."""
        plan = self._planner.plan
        if plan is None or not self._planner.is_usable(plan, False):
            return False
        if plan.settings.is_volatile and not plan.settings.are_said_by(groups):
            return False
        if not plan.stages:
            return plan.run_if_same(groups, state)
        plan.stages.parts = parts
        taken = plan.measure_and_run_if_same(groups, state, NO_SCALING) is not None
        if taken and plan.stages.refused is not None:
            self.guard.notice(plan.stages.refused, groups)
        return taken

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
        self._planner.prepare(groups, state)

    def follow_a_checkpoint(self) -> bool:
        """Take note that all state was loaded, and is not new; say whether the plan may serve on."""
        self._repeats = False
        return self._planner.follow_a_checkpoint()

    def statistics(self, groups: Groups) -> list[dict[str, Tensor]]:
        """Return what the last step measured for the user, group by group."""
        return [] if self.plan is None else self.plan.stages.by_group(len(groups))


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
