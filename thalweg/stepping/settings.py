"""What the groups' hyperparameters say, worked out again only where something has changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from numbers import Number
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from thalweg.rule import Rule
from thalweg.storage.choices import CHOICES, settings, settle

Groups = list[dict[str, Any]]


class Settings(NamedTuple):
    """A group's hyperparameters: as they stand there, as numbers, and the static choices they make.

    Args:
        values: what the group says.
        hypers: the same as numbers.
        on: the rule's flags.
        choices: all that the code of a kernel depends on.
        is_volatile: whether a value may change and stay the same object.
    """

    values: list[Any]
    hypers: SimpleNamespace
    on: dict[str, bool]
    choices: tuple[Any, ...]
    is_volatile: bool


@dataclass(frozen=True, eq=False)
class AllSettings:
    """The settings of all groups; the same object for as long as nothing changes.

    Args:
        rule: the update rule.
        groups: the settings, group by group.
        key: a number for the static choices of all of them.
        is_volatile: whether they have to be read at every step.
    """

    rule: Rule
    groups: list[Settings]
    key: int
    is_volatile: bool = False

    @cached_property
    def hypers(self) -> list[SimpleNamespace]:
        """The numbers of each group."""
        return [one.hypers for one in self.groups]

    @cached_property
    def table(self) -> np.ndarray:
        """The numbers in the order of the rule's columns, float64 (groups, columns); waits for a device."""
        rows = [[float(x) for x in self.rule.row(h)] for h in self.hypers]
        return np.array(rows, np.float64).reshape(len(rows), -1)


_FEW, _MOST = 16, 256
_ALL: dict[tuple[Any, ...], AllSettings] = {}
_KEYS: dict[tuple[Any, ...], int] = {}


class SettingsReader:
    """Reads the settings of groups, and remembers them.

    Args:
        rule: the update rule.
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        needed = [hyper.name for hyper in rule.hypers if not hyper.extra]
        self._names = (*needed, *rule.extras, *CHOICES)
        self._needed = len(needed)
        self._all = AllSettings(rule, [], 0)

    def read(self, groups: Groups) -> AllSettings:
        """Return what `groups` say; those that name some of our keys then name all or none of them."""
        for group in groups:
            settle(group)
        known = self._all.groups if len(self._all.groups) == len(groups) else [None] * len(groups)
        now = [self._settings(group, last) for group, last in zip(groups, known, strict=True)]
        if not all(map(_is, now, known)):
            self._all = self._put_together(now)
        return self._all

    def _put_together(self, now: list[Settings]) -> AllSettings:
        """Return all settings; those of few groups are kept, as optimizers that are alike come often."""
        ids = (self._rule, *map(id, now))
        found = _ALL.get(ids)
        if found is None:
            key = _KEYS.setdefault(tuple(one.choices for one in now), len(_KEYS))
            found = AllSettings(self._rule, now, key, any(one.is_volatile for one in now))
            if len(now) <= _FEW and not found.is_volatile:
                _ALL[ids] = found
                if len(_ALL) > _MOST:
                    _ALL.pop(next(iter(_ALL)), None)
        return found

    def _settings(self, group: Mapping[str, Any], known: Settings | None) -> Settings:
        values = [group.get(name) for name in self._names]
        same = known is not None and all(map(_is_equal, values, known.values))
        if known is not None and same and not known.is_volatile:
            return known
        if all(map(_is_number, values)) and None not in values[: self._needed]:
            return _settings_of(self._rule, tuple(values), self._names)
        hypers = self._rule.numbers(group)
        if known is not None and same and _are_equal(hypers, known.hypers):
            return known
        return _worked_out(self._rule, group, hypers, list(map(_own, values)))


def _worked_out(rule: Rule, group: Mapping[str, Any], hypers: SimpleNamespace, values: list[Any]) -> Settings:
    on = rule.flags(hypers)
    choices = (*on.values(), *rule.choices(group).values(), settings(rule, group))
    return Settings(values, hypers, on, choices, any(map(_is_volatile, values)))


@lru_cache(maxsize=256)
def _settings_of(rule: Rule, values: tuple[Any, ...], names: tuple[str, ...]) -> Settings:
    """Return the settings of numbers, which optimizers that are made one after the other have in common."""
    group = {name: value for name, value in zip(names, values, strict=True) if value is not None}
    return _worked_out(rule, group, rule.numbers(group), list(values))


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


def _own(value: Any) -> Any:
    """Return a value that does not change when the user changes theirs in place."""
    return type(value)(value) if type(value) in (dict, list) else value
