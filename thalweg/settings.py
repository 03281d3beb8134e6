"""What the groups' hyperparameters say, worked out again only where something has changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Number
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from thalweg.rule import Rule
from thalweg.storage import CHOICES, settings, settle

Groups = list[dict[str, Any]]


class Settings(NamedTuple):
    """A group's hyperparameters: as they stand there, as numbers, and the static choices they make.

    `are_settled` says that they stay what they are for as long as the group has the same ones: no tensor is
    among them, nor anything else that may be changed in place.
    """

    values: list[Any]
    hypers: SimpleNamespace
    on: dict[str, bool]
    choices: tuple[Any, ...]
    are_settled: bool


class AllSettings(NamedTuple):
    """The settings of all groups; the same object for as long as nothing changes.

    Args:
        groups: the settings, group by group.
        hypers: their numbers.
        key: a number for the static choices of all of them.
    """

    groups: list[Settings]
    hypers: list[SimpleNamespace]
    key: int


class SettingsReader:
    """Reads the settings of groups, and remembers them.

    Args:
        rule: the update rule.
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._names = (*(hyper.name for hyper in rule.hypers), *CHOICES)
        self._copies: Groups | None = None
        self._known: list[Settings] = []
        self._all = AllSettings([], [], 0)
        self._keys: dict[tuple[Any, ...], int] = {}

    def read(self, groups: Groups) -> AllSettings:
        """Return what `groups` say; their lists of parameters are those of the last time, or `forget` it."""
        if self._copies is not None and _are_equal(groups, self._copies):
            return self._all
        for group in groups:
            settle(group)
        known = self._known if len(self._known) == len(groups) else [None] * len(groups)
        self._known = [self._settings(group, last) for group, last in zip(groups, known, strict=True)]
        choices = tuple(one.choices for one in self._known)
        key = self._keys.setdefault(choices, len(self._keys))
        self._all = AllSettings(self._known, [one.hypers for one in self._known], key)
        are_settled = all(one.are_settled for one in self._known)
        self._copies = [_copy(group) for group in groups] if are_settled else None
        return self._all

    def forget(self) -> None:
        """Forget what was read: parameters may have been exchanged, which must not be compared by value."""
        self._copies = None

    def counted(self, groups: Groups, indices: Sequence[int]) -> None:
        """Take note that draws of groups were counted, which changes nothing."""
        if self._copies is not None:
            for i in indices:
                self._copies[i]["rounding_step"] = groups[i]["rounding_step"]

    def _settings(self, group: Mapping[str, Any], known: Settings | None) -> Settings:
        values = [_own(group.get(name)) for name in self._names]
        are_settled = all(map(_is_settled, values))
        if known is not None and are_settled and _are_equal(values, known.values):
            return known
        hypers = self._rule.numbers(group)
        on = self._rule.flags(hypers)
        storage = settings(self._rule, group)
        choices = (*on.values(), *self._rule.choices(group).values(), storage)
        return Settings(values, hypers, on, choices, are_settled)


def _are_equal(one: list[Any], other: list[Any]) -> bool:
    """Say whether all values are as they were; what cannot be compared counts as changed."""
    try:
        return one == other
    except Exception:  # groups may hold what users like, and comparing it may raise anything
        return False


def _copy(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value if name == "params" else _own(value) for name, value in group.items()}


def _own(value: Any) -> Any:
    """Return a value that does not change when the user changes theirs in place."""
    return type(value)(value) if type(value) in (dict, list) else value


def _is_settled(value: Any) -> bool:
    """Say whether a value can only be exchanged, and not be changed in place."""
    if type(value) is dict:  # a copy of the user's
        return all(map(_is_settled, value.values()))
    if type(value) in (tuple, list):
        return all(map(_is_settled, value))
    return value is None or isinstance(value, (str, Number, np.generic))
