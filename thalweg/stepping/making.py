"""How a plan is made, with the state that its parameters lack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from thalweg.lowering.look.look import Look, Seen, is_watched
from thalweg.stepping.batches import Making, State
from thalweg.stepping.gradients import name_of
from thalweg.stepping.member import Member, Sort
from thalweg.stepping.plain import prepare_plain
from thalweg.stepping.plan import Plan
from thalweg.stepping.rests import Rests
from thalweg.stepping.roster import Roster
from thalweg.stepping.settings import AllSettings, Groups
from thalweg.stepping.sorts import Sorts
from thalweg.stepping.state import prepare


class Maker:
    """Makes plans for an optimizer's steps.

    Args:
        roster: the parameters.
        rests: what rows have missed.
    """

    def __init__(self, roster: Roster, rests: Rests) -> None:
        self._roster, self._rests = roster, rests

    def make(
        self,
        groups: Groups,
        state: State,
        settings: AllSettings,
        unscale: bool,
        may_look: bool,
        before: Plan | None,
    ) -> Plan:
        """Make a plan and what state is missing. Until all of it is there nothing is changed.

        Args:
            groups: torch's `param_groups`.
            state: torch's `state`.
            settings: of the groups.
            unscale: whether gradients carry GradScaler's scale.
            may_look: whether the plan may be compared by looking at memory.
            before: the plan of the last step.
        """
        roster = self._roster
        members, owns = [], []
        sorts = Sorts(groups, settings, may_look)
        for position in range(len(roster.params)):
            if roster.gradients[position] is None:
                continue
            try:
                member, own = self._member(position, state, sorts)
            except (TypeError, ValueError):
                if roster.params[position].grad is not None:
                    raise
                roster.gradients[position] = None  # without one, what state there is need not fit
                continue
            members.append(member)
            owns.append(own)
        idle = [p for p, gradient in zip(roster.params, roster.gradients, strict=True) if gradient is None]
        plan = Plan(Making(roster.firsts, unscale, self._rests), members, idle, settings)
        # Before the state is there: if interrupted in between, it must not pass for one that was stepped.
        for member in members:
            if member.first:
                roster.firsts[member.position] = 1
        publish([member.param for member in members], owns, state)
        if not may_look:
            return plan
        look = Look(groups, state, plan.watched)
        if not look.complete:
            return self.make(groups, state, settings, unscale, False, before)
        if before is not None and before.seen is not None:
            known = before.gradients
            alike = {id(m.param) for m in members if known.get(id(m.param)) == m.sort.gradient}
            look.expect(before.seen, alike)
        plan.connect(look, state)
        if plan.fits(groups, state) & Seen.OTHER:
            raise RuntimeError("a new plan does not fit the tensors that it was made for")
        return plan

    def _member(self, position: int, state: State, sorts: Sorts) -> tuple[Member, dict[str, Any] | None]:
        """Return a member and the state that it is to have, None if it needs none."""
        roster = self._roster
        param, gradient = roster.params[position], roster.gradients[position]
        assert gradient is not None, "the caller has asked"
        sort = sorts.of(param, gradient, roster.group_of[position])
        own, first = None, bool(roster.firsts[position])
        if sort.has_state:
            own = dict(state.get(param, {}))
            prepared, is_plain_state = _prepared(position, param, sort, own)
            first |= prepared
            if sort.has_memory and not is_plain_state and not all(map(is_watched, _tensors(own))):
                sort = sorts.of(param, gradient, roster.group_of[position], may_have_memory=False)
        return Member(position, param, sort, first, roster.shared), own


def publish(params: Sequence[Tensor], owns: Sequence[dict[str, Any] | None], state: State) -> None:
    """Have `state` be what was prepared on copies; None leaves a parameter's as it is."""
    for param, own in zip(params, owns, strict=True):
        if own is None:
            continue
        known = state.setdefault(param, {})
        if len(known) and known.keys() != own.keys():
            for name in known.keys() - own.keys():
                del known[name]
        known.update(own)


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
        raise ValueError(f"{name_of(position, param)}: {error}") from None


def _tensors(own: Mapping[str, Any] | None) -> list[Tensor]:
    return [] if own is None else [value for value in own.values() if isinstance(value, Tensor)]
