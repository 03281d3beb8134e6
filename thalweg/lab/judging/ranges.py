"""How far a metric ranges over several arms, with an interval.

The best of several noisy means is too good and the worst too bad, so the difference of the two alone says
too much. Best and worst are named in tuning therefore; the lower end of the interval is that of their paired
difference on fresh seeds, which had no part in naming them: the true range is no smaller. Its upper end is
the largest of all pairs of arms: one of them is the true best and worst. Each end misses with 2.5 % at most.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import permutations

from thalweg.lab.judging.statistics import Interval, mean_interval
from thalweg.lab.spaces import Space
from thalweg.lab.study import grid
from thalweg.lab.study.evidence import Evidence
from thalweg.lab.study.intervals import of_mean
from thalweg.lab.study.looks import ERROR
from thalweg.lab.study.protocol import seeds
from thalweg.lab.study.record import Record
from thalweg.lab.study.study import Study


@dataclass(frozen=True)
class Range:
    """How far the metric ranges.

    Attributes:
        size: between best and worst mean, with its 95 % interval; without one of too few seeds.
        best: the arm with the best mean.
        worst: that with the worst.
    """

    size: Interval
    best: str
    worst: str


class Arms:
    """Several arms on fresh seeds, judged on validation; a run that failed counts as the worst outcome.

    Args:
        study: all records.
        runs: those of each arm.
        tuned: what each reached in tuning, larger is better.
    """

    def __init__(
        self, study: Study, runs: Mapping[str, Sequence[Record]], tuned: Mapping[str, float]
    ) -> None:
        self._study, self._tuned = study, tuned
        self._spaces = {name: replace(study.spaces[0], name=name) for name in runs}
        records = [_as_final(record, name) for name, found in runs.items() for record in found]
        _, _, fresh = seeds(study.settings)
        spaces = tuple(self._spaces.values())
        self._evidence = Evidence(replace(study, spaces=spaces, records=records), spaces, fresh)

    @property
    def margin(self) -> float:
        """The smallest difference worth having, in the metric's unit."""
        return self._evidence.margin

    @property
    def spread(self) -> float:
        """The standard deviation between seeds."""
        return self._evidence.spread

    def failures(self, name: str) -> int:
        """How many runs of an arm did not come to their end."""
        return len(self._evidence.scores(self._spaces[name])) - self._evidence.finished(self._spaces[name])

    def metric(self, name: str) -> Interval | None:
        """The mean of an arm with its 95 % interval; None where it has no outcome or never finished."""
        space = self._spaces[name]
        scores = list(self._evidence.scores(space).values())
        if not scores or not self._evidence.finished(space):
            return None
        return mean_interval([self._study.better(score) for score in scores])

    def difference(self, first: str, second: str) -> Interval | None:
        """By how much one arm is better than another, seed by seed; None without common seeds."""
        found = self._evidence.differences(self._spaces[first], self._spaces[second])
        return mean_interval(found) if found else None

    @cached_property
    def _known(self) -> list[str]:
        return [name for name, space in self._spaces.items() if self._evidence.scores(space)]

    def named(self) -> tuple[str, str] | None:
        """The best and the worst arm of tuning; None where fewer than two have an outcome."""
        if len(self._known) < 2:
            return None
        order = sorted(self._known, key=lambda name: self._tuned[name])
        return order[-1], order[0]

    def range(self) -> Range | None:
        """How far the metric ranges; None where fewer than two have an outcome."""
        named = self.named()
        if named is None:
            return None
        means = {name: statistics.fmean(self._scores(name)) for name in self._known}
        best, worst = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
        size = means[best] - means[worst]
        low = self.difference(*named)
        ends = [
            of_mean(found, ERROR) for pair in permutations(self._known, 2) if (found := self._pair(*pair))
        ]
        if low is None or low.low is None or None in ends:
            return Range(Interval(size, None, None), best, worst)
        high = max(end[1] for end in ends if end is not None)
        return Range(Interval(size, max(0.0, low.low), max(high, size)), best, worst)

    def _scores(self, name: str) -> list[float]:
        return list(self._evidence.scores(self._spaces[name]).values())

    def _pair(self, first: str, second: str) -> tuple[float, ...]:
        return self._evidence.differences(self._spaces[first], self._spaces[second])


def over_grid(study: Study, spaces: Sequence[Space]) -> Arms:
    """Points of a grid, each at its best rate."""
    return Arms(
        study,
        {space.name: grid.repeats(study, space) for space in spaces},
        {space.name: grid.tuned(study, space) for space in spaces},
    )


def over_rates(study: Study) -> Arms:
    """The rates that were tried at the defaults."""
    found = grid.rates(study)
    axis = study.spaces[0].axes[0].name
    scores = {
        record.trial.point[axis]: study.better(record.validation.metric)
        for record in study.tuning_of(study.spaces[0])
        if record.validation is not None
    }
    return Arms(
        study,
        {f"{rate:g}": runs for rate, runs in found.items()},
        {f"{rate:g}": scores.get(rate, float("-inf")) for rate in found},
    )


def _as_final(record: Record, name: str) -> Record:
    """A run as evidence is read from: of the arm, with validation in the place of test."""
    return replace(record, trial=replace(record.trial, name=name, stage="final"), test=record.validation)
