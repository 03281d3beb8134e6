"""Additions: what every optimizer can be given, one file each. They know no rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thalweg.additions.average import AVERAGE
from thalweg.additions.caution import CAUTIOUS, CAUTIOUS_DECAY
from thalweg.additions.clipping import MAX_NORM, MAX_VALUE
from thalweg.additions.decay import DECAY_BY
from thalweg.additions.dog import DOG
from thalweg.additions.guard import SKIP_NONFINITE
from thalweg.additions.lookahead import LOOKAHEAD
from thalweg.additions.schedule_free import SCHEDULE_FREE
from thalweg.additions.sparse import SPARSE
from thalweg.additions.statistics import STATISTICS
from thalweg.additions.step_rms import MAX_STEP_RMS
from thalweg.additions.trust import LAMB, LARS
from thalweg.rule import Addition, Recipe, Rule

ADDITIONS: tuple[Addition, ...] = (
    SKIP_NONFINITE,
    MAX_NORM,
    MAX_VALUE,
    LARS,
    CAUTIOUS,
    MAX_STEP_RMS,
    LAMB,
    DOG,
    DECAY_BY,
    CAUTIOUS_DECAY,
    SCHEDULE_FREE,
    LOOKAHEAD,
    AVERAGE,
    STATISTICS,
    SPARSE,
)
"""All of them, in the order in which they act."""

_SWITCHES = frozenset(addition.hypers[0].name for addition in ADDITIONS)
_HYPERS = {hyper.name: (hyper, addition) for addition in ADDITIONS for hyper in addition.hypers}
NAMES = frozenset(_HYPERS)
"""The keys of a group that say something of additions."""

STORAGE = tuple(slot.stored_by for addition in ADDITIONS for slot in addition.slots)
"""Those that say how a slot is stored."""


def recipe_of(rule: Rule, group: Mapping[str, Any]) -> Recipe:
    """Return what the steps of a group are made by: a rule, and the additions that the group asks for."""
    if _SWITCHES.isdisjoint(group):
        return Recipe.of(rule)
    return Recipe.of(rule, tuple(addition for addition in ADDITIONS if _is_on(addition, group)))


def _is_on(addition: Addition, group: Mapping[str, Any]) -> bool:
    switch = addition.hypers[0]
    return switch.name in group and not switch.is_default(group[switch.name])


def idle(group: Mapping[str, Any]) -> set[str]:
    """Return the keys of a group that say something of additions that it does without."""
    found = set()
    for name in _HYPERS.keys() & group.keys():
        hyper, addition = _HYPERS[name]
        if not hyper.is_default(group[name]) and not _is_on(addition, group):
            found.add(name)
    return found


def joined(defaults: Mapping[str, Any], group: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a group says, and of the defaults what has an effect beside it."""
    found = {**defaults, **group}
    for name in idle(found) - group.keys():
        del found[name]
    return found


def check_effect(group: Mapping[str, Any]) -> None:
    """Raise ValueError if a group says something of an addition that it does without."""
    for name in sorted(idle(group)):
        switch = _HYPERS[name][1].hypers[0].name
        raise ValueError(f"{name}={group[name]!r} has no effect without {switch}")


def check(rule: Rule, group: Mapping[str, Any], as_set: bool = False) -> Recipe:
    """Raise if a hyperparameter of the rule or of an addition is not allowed; return the group's recipe.

    Args:
        rule: the rule.
        group: the hyperparameters.
        as_set: see `Recipe.check`.

    Raises:
        ValueError, TypeError: the message names the argument, the value and what is allowed.
    """
    for name in _HYPERS.keys() & group.keys():
        _HYPERS[name][0].check(group[name])
    recipe = recipe_of(rule, group)
    recipe.check(group, as_set)
    return recipe


def without_defaults(group: dict[str, Any]) -> None:
    """Take from a group what it need not name, because it holds anyway."""
    for name in _HYPERS.keys() & group.keys():
        if _HYPERS[name][0].is_default(group[name]):
            del group[name]
