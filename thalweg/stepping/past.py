"""What steps that are over have done to rows without gradients, for all rows that rest since the same step.

Nothing is known here of a rule's formula. For each step from which rows may rest on there are probes:
elements that take every step since, with zero gradients, by the rule itself, in float64. What became of them
are the amounts by which `thalweg.rule.Resting` moves whole rows.

Steps come in blocks of `BLOCK`. Only the probes of the current block, and those with which earlier ones
began, are stepped on. A row that rests since an earlier block goes to its end first, in one hop, and from
there to the present in another. So a step costs at most `2 * BLOCK` probes of each kind, however long rows
have rested.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.rule import Resting

BLOCK = 256
"""Steps of a block, and most blocks."""

MOST = BLOCK * BLOCK
"""Most steps that are remembered."""


class Past:
    """The steps that a parameter has taken since all of its rows were up to date.

    Args:
        resting: what its rows catch up by.
    """

    def __init__(self, resting: Resting) -> None:
        self._resting = resting
        self.now = 0
        """How many steps there were."""
        self._young, self._begins = _Probes(resting), _Probes(resting)
        self._closed: list[np.ndarray] = []

    def record(self, scalars: Mapping[str, Any], h: Any, t: Any) -> None:
        """Take note of a step.

        Args:
            scalars: its values by name.
            h: the hyperparameters.
            t: the counters, after they were advanced.
        """
        if self._young.count == BLOCK:
            self._closed.append(self._young.amounts())
            self._begins.take_first_of(self._young)
            self._young = _Probes(self._resting)
        series = self._resting.rest.series
        self._young.begin(1.0 if series is None else series.half(h, t))
        s = SimpleNamespace(**{name: float(value) for name, value in scalars.items()})
        self._young.step(s)
        self._begins.step(s)
        self.now += 1

    def amounts(self, origins: np.ndarray) -> np.ndarray:
        """Return the scalars of `Resting`, float64 (origins, hops x amounts).

        Args:
            origins: how many of the steps rows have taken before they rested; below `now`.
        """
        none = _none(self._resting)
        young, begins = self._young.amounts(), self._begins.amounts()
        found = np.tile(none, (len(origins), 2))
        width, blocks = len(none), origins // BLOCK
        for block in np.unique(blocks).tolist():
            mine = blocks == block
            is_now = block == len(self._closed)
            own = young if is_now else self._closed[block]
            found[mine, :width] = own[origins[mine] % BLOCK]
            if not is_now:
                following = block + 1
                found[mine, width:] = young[0] if following == len(self._closed) else begins[following]
        return found


class _Probes:
    """Elements that rest since different steps, a column for each step.

    The first rows are those that show what is linear: one variable is 1 and the others are 0. Where there is
    a series, the others have 1 in the slot that drives, and under the root such a square that `z` is a node.
    """

    def __init__(self, resting: Resting) -> None:
        self._resting = resting
        self._on = SimpleNamespace(**resting.on)
        names = [slot.name for slot in resting.base.slots_on(resting.on)]
        self._linear = len(resting.variables)
        rows = self._linear + (0 if resting.rest.series is None else resting.degree + 1)
        self._values = {
            name: torch.zeros(rows, BLOCK, dtype=torch.float64, device="cpu") for name in ("p", *names)
        }
        self._half = torch.ones(BLOCK, dtype=torch.float64, device="cpu")
        self.count = 0

    def begin(self, half: float) -> None:
        """Begin another column."""
        at = self.count
        for i, name in enumerate(self._resting.variables):
            self._values[name][i, at] = 1.0
        series = self._resting.rest.series
        if series is not None:
            z = _nodes(self._resting.degree)
            self._values[series.drives][self._linear :, at] = 1.0
            self._values[series.over(self._resting.on)][self._linear :, at] = (half * (1 + z) / (1 - z)) ** 2
        self._half[at] = half
        self.count += 1

    def take_first_of(self, other: _Probes) -> None:
        """Go on with the first column of others, as another column."""
        for name, value in self._values.items():
            value[:, self.count] = other._values[name][:, 0]
        self._half[self.count] = other._half[0]
        self.count += 1

    def step(self, s: Any) -> None:
        """Take a step without gradients."""
        if not self.count:
            return
        values = {name: value[:, : self.count] for name, value in self._values.items()}
        p = values.pop("p")
        new_p, new = self._resting.base.apply(p, torch.zeros_like(p), values, s, self._on)
        for name, value in {"p": new_p, **new}.items():
            self._values[name][:, : self.count] = value

    def amounts(self) -> np.ndarray:
        """Return the scalars of a hop for each column, float64 (columns, amounts)."""
        values = {name: value[:, : self.count] for name, value in self._values.items()}
        place = {name: i for i, name in enumerate(self._resting.variables)}
        found = [
            values[out][place[needed]] - float(out == needed == "p") for out, needed in self._resting.pairs
        ]
        if self._resting.rest.series is not None:
            half = self._half[: self.count]
            z = _nodes(self._resting.degree)[:, None]
            over_half = values["p"][self._linear :] * (half * 2 / (1 - z))
            found += [half, *(_to_series(self._resting.degree) @ over_half)]
        return torch.stack(found, dim=1).numpy() if found else np.zeros((self.count, 0))


@cache
def _none(resting: Resting) -> np.ndarray:
    """Return the scalars of a hop in which nothing happens."""
    kept = {f"{name}_by_{name}": 1.0 for name in resting.variables if name != "p"} | {"half": 1.0}
    return np.array([kept.get(name, 0.0) for name in resting.amounts])


def _angles(degree: int) -> Tensor:
    return (torch.arange(degree + 1, dtype=torch.float64, device="cpu") + 0.5) * (torch.pi / (degree + 1))


@cache
def _nodes(degree: int) -> Tensor:
    """Return the zeros of the Chebyshev polynomial after the last of a series, float64 (degree + 1,)."""
    return torch.cos(_angles(degree))


@cache
def _to_series(degree: int) -> Tensor:
    """Return what makes Chebyshev coefficients of values at the nodes, float64 (degree + 1, degree + 1)."""
    order = torch.arange(degree + 1, dtype=torch.float64, device="cpu")
    weight = (2.0 - (order == 0).double()) / (degree + 1)
    return weight[:, None] * torch.cos(order[:, None] * _angles(degree))
