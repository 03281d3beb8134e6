"""Rows: the scalars of a step, worked out once for each distinct (group, counters)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.lowering.counters import CounterColumn
from thalweg.rule import Rule


def advance(
    rule: Rule, h: Any, counters: Mapping[str, Any], first: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the scalars of the coming step by name, and the counters after it.

    All is worked out in float64, unless a counter or a hyperparameter is a tensor, and counters are then
    rounded to their own dtype.
    """
    h = rule.complete(h)
    t = SimpleNamespace(first=first, **{name: _exact(value) for name, value in counters.items()})
    if counters:
        rule.advance(h, t)
    after = {name: _alike(getattr(t, name), before) for name, before in counters.items()}
    exact = {name: _exact(value) for name, value in after.items()}
    return rule.scalars(h, SimpleNamespace(first=first, **exact)), after


def _exact(value: Any) -> Any:
    return value if isinstance(value, Tensor) else float(value)


def _alike(value: Any, before: Any) -> Any:
    return type(before)(value) if isinstance(before, np.generic) else value


def scalar_names(rule: Rule, h: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the scalars, the columns of a row."""
    counters = {counter.name: counter.initial for counter in rule.counters}
    return tuple(advance(rule, rule.numbers(h), counters, first=True)[0])


class Rows:
    """The rows of a batch, and which tensor has which.

    Args:
        rule: the update rule.
        groups: the index of each tensor's group.
        first: for each tensor, whether its state is new.
        counters: for each of the rule's counters, the batch's tensors.
        dtype: of the counters.

    Attributes:
        row_of: int64 (tensors,), the row of each tensor; never another array.
    """

    def __init__(
        self,
        rule: Rule,
        groups: Sequence[int],
        first: Sequence[bool],
        counters: Mapping[str, list[Tensor]],
        dtype: torch.dtype,
    ) -> None:
        self._rule = rule
        self._groups = np.array(groups)
        self._first = np.array(first)
        self._columns = {name: CounterColumn(tensors, dtype) for name, tensors in counters.items()}
        self._leaders: list[int] = []
        self.row_of = np.zeros(len(groups), np.int64)

    def next(self, hypers: Sequence[Any], inverse_scale: float | None) -> list[list[float]]:
        """Advance the counters and return the scalars of this step, a list for each row.

        Args:
            hypers: the hyperparameters of each group.
            inverse_scale: a last column for every row, if not None.
        """
        values = {name: column.read() for name, column in self._columns.items()}
        if not self._still_alike(values):
            self._divide(values)
        rows, advanced = [], []
        for leader in self._leaders:
            counters = {name: column[leader] for name, column in values.items()}
            first = bool(self._first[leader])
            scalars, after = advance(self._rule, hypers[self._groups[leader]], counters, first)
            rows.append([*scalars.values()] if inverse_scale is None else [*scalars.values(), inverse_scale])
            advanced.append(after)
        for name, column in self._columns.items():
            after_of = [after[name] for after in advanced]
            column.write(after_of[0] if len(after_of) == 1 else np.array(after_of)[self.row_of])
        if self._first.any():
            self._first[:] = False
            self._leaders = []
        return rows

    def _still_alike(self, values: Mapping[str, np.ndarray]) -> bool:
        """Say whether the tensors that share a row still have the same counters."""
        if len(self._leaders) == 1:
            return all((column == column[0]).all() for column in values.values())
        return bool(self._leaders) and all(
            (column[self._leaders][self.row_of] == column).all() for column in values.values()
        )

    def _divide(self, values: Mapping[str, np.ndarray]) -> None:
        keys = np.stack([self._groups, self._first, *values.values()])
        _, leaders, row_of = np.unique(keys, axis=1, return_index=True, return_inverse=True)
        self._leaders = leaders.tolist()
        self.row_of[:] = row_of.reshape(-1)
