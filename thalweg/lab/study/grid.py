"""A metric over some hyperparameters, the learning rate tuned anew at each point: what is to be run for it.

1. Tune: every point gets the same number of quasi-random rates, the same for all, all with one seed. Ranges
   are extended as in a comparison, for all points alike (`protocol.SEARCH`).
2. Repeat: the best rate of every point trains on fresh seeds, the same for all; so do, at the defaults, all
   rates that were tried there, to see what the rate itself is worth.

All is measured on validation; test is never looked at. Each point is a space whose only axis is the rate, and
the first is the one at the defaults. `due` is a pure function of the records, like `protocol.due`.
"""

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from thalweg.lab.spaces import Axis, Space, located
from thalweg.lab.study import protocol
from thalweg.lab.study.protocol import chosen, seeds
from thalweg.lab.study.record import Record, Trial
from thalweg.lab.study.study import Study

NEVER = 1_000_000_000
"""Trials with which an axis that is held is searched."""

REST = "1 - "
"""What an axis is called that is searched as the distance of its argument from 1."""


@dataclass(frozen=True)
class Factor:
    """A hyperparameter and the values that it is given.

    Attributes:
        name: of the optimizer's argument, as ``beta2`` or ``eps``.
        values: all different, in the order in which they are shown.
    """

    name: str
    values: tuple[Any, ...]


def axis_of(space: Space, name: str) -> Axis | None:
    """The axis of a space that is searched for an argument, if it has one beside the learning rate's."""
    return next((axis for axis in space.axes[1:] if axis.name in (name, REST + name)), None)


def held(space: Space, values: dict[str, Any]) -> Space:
    """The space with these arguments held, all others at their defaults, and the learning rate searched."""
    axes, fixed = [], dict(space.fixed)
    for axis in space.axes[1:]:
        name = axis.name.removeprefix(REST)
        default = axis.default
        if name in values:
            default = round(1 - values[name], 12) if axis.name.startswith(REST) else values[name]
        axes.append(replace(axis, default=default, trials=NEVER))
    fixed |= {name: value for name, value in values.items() if axis_of(space, name) is None}
    said = ", ".join(f"{name}={_short(value)}" for name, value in values.items())
    return replace(
        space, name=f"{space.name} {said or 'at its defaults'}", axes=(space.axes[0], *axes), fixed=fixed
    )


def points(factors: Sequence[Factor]) -> list[tuple[Any, ...]]:
    """The values of each point of the grid, the last factor fastest."""
    return list(product(*(factor.values for factor in factors)))


def arms(space: Space, factors: Sequence[Factor]) -> tuple[Space, ...]:
    """The spaces that are run: the one at the defaults, then those of the other points."""
    names = [factor.name for factor in factors]
    default = tuple(default_of(space, name) for name in names)
    others = [values for values in points(factors) if values != default]
    return (held(space, {}), *(held(space, dict(zip(names, values, strict=True))) for values in others))


def at(spaces: Sequence[Space], space: Space, factors: Sequence[Factor], values: Sequence[Any]) -> Space:
    """The one of the arms that lies at a point."""
    names = [factor.name for factor in factors]
    if tuple(values) == tuple(default_of(space, name) for name in names):
        return spaces[0]
    name = held(space, dict(zip(names, values, strict=True))).name
    return next(arm for arm in spaces if arm.name == name)


def default_of(space: Space, name: str) -> Any:
    """What an argument is unless it is given; None where that cannot be known."""
    axis = axis_of(space, name)
    if axis is not None and axis.default is not None:
        return round(1 - axis.default, 12) if axis.name.startswith(REST) else axis.default
    if name in space.fixed:
        return space.fixed[name]
    try:
        parameter = inspect.signature(space.maker or located(space.optimizer)).parameters.get(name)
    except (TypeError, ValueError):
        return None
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def due(study: Study) -> list[Trial]:
    """All runs that the records there are allow to name, those made among them."""
    return protocol.follow(study, (*protocol.SEARCH, _repeat))


def left(study: Study) -> tuple[list[int], list[int]]:
    """How many runs of each space are to be made, at least and at most, as far as that is known."""
    made = {record.trial.key for record in study.records if not record.lost}
    due_ = [trial for trial in due(study) if trial.key not in made]
    repeating, settings, counts = any(t.stage == "repeat" for t in due_), study.settings, []
    for place, space in enumerate(study.spaces):
        known = sum(trial.name == space.name for trial in due_)
        rates_ = (settings.trials - 1) * settings.seeds if place == 0 else 0
        whole = settings.trials + settings.seeds + rates_ - len(study.of(space, "tune"))
        counts.append(known if repeating or not due_ else max(known, whole))
    return counts, counts


def repeats(study: Study, space: Space) -> list[Record]:
    """The runs of a point's best rate on fresh seeds."""
    best = chosen(study, space)
    if best is None:
        return []
    return [record for record in study.of(space, "repeat") if record.trial.settings == best.trial.settings]


def rates(study: Study) -> dict[float, list[Record]]:
    """The runs on fresh seeds of every rate that was tried at the defaults, from the lowest up."""
    default = study.spaces[0]
    axis, found = default.axes[0].name, dict[float, list[Record]]()
    for record in study.of(default, "repeat"):
        found.setdefault(record.trial.point[axis], []).append(record)
    return dict(sorted(found.items()))


def tuned(study: Study, space: Space) -> float:
    """What a point's best rate reached in tuning, larger is better; -inf where every trial failed."""
    best = chosen(study, space)
    return -math.inf if best is None or best.validation is None else study.better(best.validation.metric)


def _repeat(study: Study, _earlier: Sequence[Trial]) -> list[Trial]:
    _, _, fresh = seeds(study.settings)
    best = [record.trial for space in study.spaces if (record := chosen(study, space)) is not None]
    of_default = [record.trial for record in study.tuning_of(study.spaces[0])]
    # Seed by seed, so that a study that is cut short has whole pairs.
    found = [replace(trial, stage="repeat", seed=seed) for seed in fresh for trial in (*best, *of_default)]
    return list({trial.key: trial for trial in found}.values())


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
