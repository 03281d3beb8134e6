"""What the groups' hyperparameters say, worked out again only where something has changed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from numbers import Number
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from thalweg.rule import Recipe
from thalweg.storage.choices import CHOICES, settings, settle

Groups = list[dict[str, Any]]
RecipeOf = Callable[[Mapping[str, Any]], Recipe]


class Settings(NamedTuple):
    """A group's hyperparameters: as they stand there, as numbers, and the static choices they make.

    Args:
        recipe: what its steps are made by.
        values: what the group says.
        hypers: the same as numbers.
        on: the rule's flags.
        choices: all that the code of a kernel depends on.
        is_volatile: whether a value may change and stay the same object.
    """

    recipe: Recipe
    values: list[Any]
    hypers: SimpleNamespace
    on: dict[str, bool]
    choices: tuple[Any, ...]
    is_volatile: bool


@dataclass(frozen=True, eq=False)
class AllSettings:
    """The settings of all groups; the same object for as long as nothing changes.

    Args:
        groups: the settings, group by group.
        key: a number for the static choices of all of them.
        is_volatile: whether a value may change and stay the same object.
    """

    groups: list[Settings]
    key: int
    is_volatile: bool = False

    @cached_property
    def _in_place(self) -> list[tuple[int, str, Any]]:
        return [
            (i, name, value)
            for i, one in enumerate(self.groups)
            for name, value in zip(_names(one.recipe)[0], one.values, strict=True)
            if one.is_volatile and _is_volatile(value)
        ]

    @cached_property
    def must_be_read(self) -> bool:
        """Whether they have to be read at every step: there is no comparing with what they were."""
        return not all(_is_copied(value) for _, _, value in self._in_place)

    def are_said_by(self, groups: Groups) -> bool:
        """Say whether what may change in place has not; all else is looked at by whose it is."""
        return all(_is_equal(groups[i].get(name), value) for i, name, value in self._in_place)

    @cached_property
    def hypers(self) -> list[SimpleNamespace]:
        """The numbers of each group."""
        return [one.hypers for one in self.groups]

    def table(self, recipe: Recipe) -> np.ndarray:
        """Return the numbers in the order of a recipe's columns, float64 (groups, columns).

        It waits for a device that has some of them. Rows of groups that follow another recipe are zero.
        """
        found = self._tables.get(recipe)
        if found is None:
            found = self._tables[recipe] = np.zeros((len(self.groups), len(recipe.columns)), np.float64)
            for row, one in zip(found, self.groups, strict=True):
                if one.recipe is recipe:
                    row[:] = [float(x) for x in recipe.row(one.hypers)]
        return found

    @cached_property
    def _tables(self) -> dict[Recipe, np.ndarray]:
        return {}


_FEW, _MOST = 16, 256
_ALL: dict[tuple[Any, ...], AllSettings] = {}
_KEYS: dict[tuple[Any, ...], int] = {}
_FRESH = itertools.count()  # `len(_KEYS)` may be the same in two threads


class SettingsReader:
    """Reads the settings of groups, and remembers them.

    Args:
        recipe_of: what the steps of a group are made by.
    """

    def __init__(self, recipe_of: RecipeOf) -> None:
        self._recipe_of = recipe_of
        self._all = AllSettings([], 0)

    def read(self, groups: Groups) -> AllSettings:
        """Return what `groups` say; those that name some of our keys then name all or none of them."""
        for group in groups:
            settle(group)
        known = self._all.groups if len(self._all.groups) == len(groups) else [None] * len(groups)
        now = [self._settings(group, last) for group, last in zip(groups, known, strict=True)]
        if len(now) != len(self._all.groups) or not all(map(_is, now, known)):
            self._all = self._put_together(now)
        return self._all

    def _put_together(self, now: list[Settings]) -> AllSettings:
        """Return all settings; those of few groups are kept, as optimizers that are alike come often."""
        ids = tuple(map(id, now))
        found = _ALL.get(ids)
        if found is None:
            key = _KEYS.setdefault(tuple(one.choices for one in now), next(_FRESH))
            found = AllSettings(now, key, any(one.is_volatile for one in now))
            if len(now) <= _FEW and not found.is_volatile:
                _ALL[ids] = found
                if len(_ALL) > _MOST:
                    _ALL.pop(next(iter(_ALL)), None)
        return found

    def _settings(self, group: Mapping[str, Any], known: Settings | None) -> Settings:
        recipe = self._recipe_of(group)
        names, needed = _names(recipe)
        values = [group.get(name) for name in names]
        same = known is not None and known.recipe is recipe and all(map(_is_equal, values, known.values))
        if known is not None and same and not known.is_volatile:
            return known
        if all(map(_is_number, values)) and None not in values[:needed]:
            return _settings_of(recipe, tuple(values), names)
        hypers = recipe.numbers(group)
        if known is not None and same and _are_equal(hypers, known.hypers):
            return known
        return _worked_out(recipe, group, hypers, list(map(_own, values)))


def _worked_out(
    recipe: Recipe, group: Mapping[str, Any], hypers: SimpleNamespace, values: list[Any]
) -> Settings:
    on = recipe.flags(hypers)
    choices = (recipe, *on.values(), *recipe.choices(group).values(), settings(recipe, group))
    return Settings(recipe, values, hypers, on, choices, any(map(_is_volatile, values)))


@cache
def _names(recipe: Recipe) -> tuple[tuple[str, ...], int]:
    """Return the keys of a group that say something, and how many of them, the first, it must have."""
    needed = [hyper.name for hyper in recipe.hypers if not hyper.extra]
    return (*needed, *recipe.extras, *CHOICES), len(needed)


@lru_cache(maxsize=256)
def _settings_of(recipe: Recipe, values: tuple[Any, ...], names: tuple[str, ...]) -> Settings:
    """Return the settings of numbers, which optimizers that are made one after the other have in common."""
    group = {name: value for name, value in zip(names, values, strict=True) if value is not None}
    return _worked_out(recipe, group, recipe.numbers(group), list(values))


def _is(a: Any, b: Any) -> bool:
    return a is b


def _is_equal(a: Any, b: Any) -> bool:
    """Say whether two values are certain to be alike; others' idea of equality is not asked for."""
    if a is b:
        return True
    try:
        return type(a) is type(b) and type(a) in _PLAIN and bool(a == b)
    except Exception:  # what is in a list may be anything
        return False


def _are_equal(a: SimpleNamespace, b: SimpleNamespace) -> bool:
    return all(map(_is_equal, vars(a).values(), vars(b).values()))


_PLAIN = (int, float, bool, str, type(None), tuple, list, dict)


def _is_volatile(value: Any) -> bool:
    if isinstance(value, tuple):
        return any(map(_is_volatile, value))
    if isinstance(value, Tensor):
        return value.device.type == "cpu"  # on a device it is read there
    return value is not None and not isinstance(value, (Number, str, np.generic))


_NUMBERS = frozenset((float, int, bool, str, type(None)))


def _is_number(value: Any) -> bool:
    """Say whether a value is one that does not change and equals none of another kind."""
    kind = type(value)
    return kind in _NUMBERS or (kind is tuple and all(type(part) in _NUMBERS for part in value))


def _is_copied(value: Any) -> bool:
    """Say whether `_own` is a copy of all of it: what is in a list may change in place too."""
    parts = value.values() if type(value) is dict else value if type(value) is list else [value]
    return all(type(part) in _NUMBERS for part in parts)


def _own(value: Any) -> Any:
    """Return a value that does not change when the user changes theirs in place."""
    if isinstance(value, (dict, list)):
        return dict(value) if isinstance(value, dict) else list(value)
    return value
