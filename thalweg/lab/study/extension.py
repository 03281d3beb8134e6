"""Where a search is widened: by a decade where the best lies on the border, downwards where all diverged.

An optimizer that diverges in each of its trials has not been searched: its rates are too high for the task.
It is tried decade by decade below its range until one of them works, and then gets as many trials there as
the others had in theirs. No other optimizer gets more for it: what it spent above has bought it nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from thalweg.lab.spaces import Axis, Point, Space
from thalweg.lab.spaces.search import points
from thalweg.lab.study.record import Record, Stage, Trial
from thalweg.lab.study.study import Settings, Study

DECADE = 10.0

DESCENTS = 8
"""Decades below its range that an optimizer is searched in."""

Side = Literal["low", "high"]


def extension(settings: Settings) -> int:
    """Trials that each optimizer gets when a range grows."""
    return math.ceil(settings.trials / 4)


def trial_of(stage: Stage, space: Space, point: Point, seed: int) -> Trial:
    """The trial of a point of a space."""
    return Trial(stage, space.name, space.optimizer, space.settings(point), point, seed)


def rate_range(study: Study, space: Space) -> Axis:
    """The range of learning rates of an optimizer after the extensions that were made."""
    axis = space.axes[0]
    tried = [record.trial.point[axis.name] for record in study.of(space, "extend")]
    low, high = axis.low, axis.high
    while tried and min(tried) < low:
        low /= DECADE
    while tried and max(tried) > high:
        high *= DECADE
    return replace(axis, low=low, high=high)


def beyond(axis: Axis, side: Side) -> Axis:
    """The decade on one side of a range."""
    if side == "high":
        return replace(axis, low=axis.high, high=axis.high * DECADE)
    return replace(axis, low=axis.low / DECADE, high=axis.low)


def has_only_diverged(study: Study, space: Space) -> bool:
    """Whether an optimizer came to no end in any trial, and lower rates may help."""
    return _only_diverged(study.tuning_of(space))


def descend(study: Study, seed: int) -> list[Trial]:
    """The next trials of the optimizers that have only diverged, a decade below what they were tried at."""
    count = extension(study.settings)
    return [
        trial_of("extend", space, point, seed)
        for space in study.spaces
        if has_only_diverged(study, space)
        for point in points(
            [beyond(rate_range(study, space), "low"), *study.searched(space)[1:]],
            count,
            study.settings.seed,
            skip=len(study.tuning_of(space)),
        )
    ]


def refill(study: Study, seed: int) -> list[Trial]:
    """More trials where an optimizer that had only diverged has come to an end, as many as it lost above.

    They lie between the lowest rate that was tried and the lowest at which it diverged.
    """
    return [
        trial_of("extend", space, point, seed)
        for space in study.spaces
        if was_all_too_high(study, space) and any(map(_worked, study.tuning_of(space)))
        for point in points(
            [_working(study, space), *study.searched(space)[1:]],
            max(0, study.settings.trials - extension(study.settings)),
            study.settings.seed,
        )
    ]


def was_all_too_high(study: Study, space: Space) -> bool:
    """Whether an optimizer only diverged in its own range, so that it was searched below."""
    return _only_diverged([record for record in study.of(space, "tune") if not record.lost])


def _working(study: Study, space: Space) -> Axis:
    axis = rate_range(study, space)
    found = [record.trial.point[axis.name] for record in study.tuning_of(space) if _worked(record)]
    # The decade in which something worked, and the one below it.
    return replace(axis, low=axis.low / DECADE, high=min(axis.high, _above(max(found), axis.low)))


def _above(rate: float, low: float) -> float:
    """The upper end of the decade, counted from `low`, that a rate lies in."""
    high = low * DECADE
    while high < rate:
        high *= DECADE
    return high


def _only_diverged(records: Sequence[Record]) -> bool:
    return any(record.astray for record in records) and not any(map(_worked, records))


def _worked(record: Record) -> bool:
    return record.validation is not None and not record.astray
