"""What the final runs tell of each pair of optimizers: ahead, equivalent, or not told apart.

A run that failed counts as the worst outcome: below the worst run of the study that came to its end, by the
standard deviation between seeds or, where that is more, by the margin. Where one has failed there is no
equivalence. A run that was lost by accident counts as not made.

For each pair there is one interval of the difference, which holds for all pairs and all looks together with
95 %, and everything that is said of the pair is read off it. The interval of a look is that of `guarded`
at the error the look may spend; what one look has excluded stays excluded.
"""

import math
import statistics
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import numpy as np
from scipy import stats

from thalweg.lab.spaces import Space
from thalweg.lab.study.intervals import Ends, flipped, guarded, of_mean
from thalweg.lab.study.looks import ERROR, spending
from thalweg.lab.study.record import Record
from thalweg.lab.study.study import Margin, Study, margin_of

POWER = 0.8
"""The chance with which the seeds that it would take would tell."""

LUCK = 0.6
"""The share of what separates an optimizer's best trial from its third that may be the luck of tuning.

A best rate lies at most half a step of the search from the true one, its neighbours half a step and
more. What that costs is half of what separates best and third best where the metric falls off like a
roof, and a quarter where it does like a parabola. Noise chooses too, so a little more is taken, found by
simulation.
"""

ENOUGH = 8
"""Trials below which best and third best are too far apart to tell of the luck of tuning."""

NOISE = 0.25
"""Standard deviations of the seeds that separate best and third best of equal trials, at least."""

Relation = Literal["ahead", "behind", "equivalent", "unresolved"]


class Evidence:
    """The final runs of a study, pair by pair and look by look.

    Args:
        study: all records.
        spaces: the optimizers that are measured.
        fresh: the seeds on which they are, in the order of measuring.
    """

    def __init__(self, study: Study, spaces: Sequence[Space], fresh: Sequence[int]) -> None:
        self.study, self.spaces = study, tuple(spaces)
        self.looks = study.settings.looks or (study.settings.seeds,)
        self._finals = {s.name: _by_seed(study, s, fresh) for s in spaces}
        self._fresh, self._error = fresh, spending(self.looks, math.comb(len(study.spaces), 2))
        self.reached = sum(map(self._is_complete, self.looks)) if spaces else 0

    def scores(self, space: Space, seeds: int | None = None) -> dict[int, float]:
        """What an optimizer scored, larger is better, by seed; on the first `seeds` of them."""
        found = self._scores.get(space.name, {})
        return {seed: found[seed] for seed in self._fresh[:seeds] if seed in found}

    @cached_property
    def _scores(self) -> dict[str, dict[int, float]]:
        return {
            name: {seed: score for seed, r in found.items() if (score := self._score(r)) is not None}
            for name, found in self._finals.items()
        }

    def differences(self, first: Space, second: Space, seeds: int | None = None) -> tuple[float, ...]:
        """By how much `first` is better, on each seed that both have an outcome on."""
        ours, others = self.scores(first, seeds), self.scores(second, seeds)
        return tuple(ours[seed] - others[seed] for seed in ours if seed in others)

    def interval(self, first: Space, second: Space) -> Ends | None:
        """The interval of the difference from which claims are read; None while there can be no claim."""
        low, high, told = -math.inf, math.inf, False
        for look, error in list(zip(self.looks, self._error, strict=True))[: self.reached]:
            differences = self.differences(first, second, look)
            found = guarded(differences, error) if differences and error else None
            if found is not None:
                # An interval holds its mean, though it be that of a later look.
                mean, told = statistics.fmean(self.differences(first, second)), True
                low, high = min(max(low, found[0]), mean), max(min(high, found[1]), mean)
        return (low, high) if told else None

    def shown(self, first: Space, second: Space) -> Ends | None:
        """The same interval or, while there can be no claim, Student's t for all pairs together."""
        if (found := self.interval(first, second)) is not None:
            return found
        pairs = max(1, math.comb(len(self.study.spaces), 2))
        return of_mean(self.differences(first, second), ERROR / pairs)

    def relation(self, first: Space, second: Space, least: float | None = None) -> Relation:
        """What may be said of `first` beside `second`; an optimizer that never finished is never ahead.

        At the study's margin, or at `least`.
        """
        if self._alone(first, second):
            return "ahead"
        if self._alone(second, first):
            return "behind"
        least = self.margin if least is None else least
        relation = relate(self.interval(first, second), least, self.floor)
        leader = {"ahead": first, "behind": second}.get(relation)
        failed = any(self.finished(space) < len(self.scores(space)) for space in (first, second))
        if (relation == "equivalent" and failed) or (leader is not None and not self.finished(leader)):
            return "unresolved"
        return relation

    def _alone(self, first: Space, second: Space) -> bool:
        """Whether `second` never finished, `first` did, and that is no accident of the seeds."""
        if not self.reached or self.finished(second) or not self.finished(first):
            return False
        ours, theirs = self._made(first), self._made(second)
        ends = flipped(
            [float(_finite(self.study, record) is not None) for record in ours],
            self._error[self.reached - 1],
        )
        return bool(theirs) and ends is not None and ends[0] > 0

    def _made(self, space: Space) -> list[Record]:
        """The final runs but for those that accidents took."""
        return [record for record in self._finals.get(space.name, {}).values() if not record.lost]

    def finished(self, space: Space) -> int:
        """How many final runs came to a finite end."""
        return sum(_finite(self.study, r) is not None for r in self._finals.get(space.name, {}).values())

    def ranked(self) -> list[Space]:
        """The optimizers that have an outcome, best mean first; equal ones by name."""
        means = {s.name: statistics.fmean(found) for s in self.spaces if (found := self.scores(s).values())}
        known = [space for space in self.spaces if space.name in means]
        return sorted(known, key=lambda s: (not self.finished(s), -means[s.name], s.name))

    @property
    def goes_on(self) -> bool:
        """Whether all seeds there are have been run and do not tell the best from every other."""
        complete = self.reached and self.looks[self.reached - 1] == len(self._fresh)
        return bool(complete) and not self.settled

    @property
    def settled(self) -> bool:
        """Whether the best mean is told from every other, as ahead or as equivalent."""
        order = self.ranked()
        if len(order) < 2 or not self.finished(order[0]):
            return True
        return all(self.relation(order[0], other) != "unresolved" for other in order[1:])

    def seeds_needed(self, first: Space, second: Space) -> float:
        """How many seeds would tell two apart that are not: to be ahead or, if they are close, equivalent.

        From mean and spread of the differences, for a chance of 80 %, at the error of the last look; infinite
        where the mean lies on the margin.
        """
        differences = self.differences(first, second)
        if len(differences) < 2:
            return math.inf
        mean, spread = abs(statistics.fmean(differences)), statistics.stdev(differences)
        gap = abs(mean - (self.margin + self.floor))
        quantile = stats.norm.ppf(1 - self._error[-1] / 2) + stats.norm.ppf(POWER)
        return max(self.looks[-1] + 1.0, (quantile * spread / gap) ** 2) if gap else math.inf

    @cached_property
    def margin(self) -> float:
        """The smallest difference worth having, in the metric's unit."""
        return self._margin(self.study.settings.margin)

    @cached_property
    def spread(self) -> float:
        """The standard deviation between seeds, of an optimizer's runs that came to their end; pooled."""
        squares = []
        for runs in self._finals.values():
            found = [_finite(self.study, record) for record in runs.values()]
            finished = [score for score in found if score is not None]
            if len(finished) > 1:
                squares.append(float(np.var(finished, ddof=1)))
        return math.sqrt(statistics.fmean(squares)) if squares else 0.0

    @cached_property
    def floor(self) -> float:
        """A lead below this may be the luck of tuning; never more than a difference worth having."""
        return min(self._luck, self._usual)

    @cached_property
    def _luck(self) -> float:
        # Of all optimizers: one's own three best trials say too little.
        return max((luck_of_tuning(self.study, space) for space in self.spaces), default=0.0)

    @cached_property
    def _usual(self) -> float:
        return self._margin(margin_of(self.study.workload))

    def _margin(self, asked: Margin) -> float:
        """A share is one of the best mean or, where a spread is asked too, of the improvement if that is
        less."""
        order = self.ranked()
        if not asked.relative or not order:
            return asked.at(0.0)
        best = statistics.fmean(self.scores(order[0]).values())
        starts = [r.curve[0].metric for runs in self._finals.values() for r in runs.values() if r.curve]
        starts = [self.study.better(start) for start in starts if math.isfinite(start)]
        level = abs(best)
        if asked.spread and starts:
            level = min(level, abs(best - statistics.fmean(starts)))
        return max(asked.at(level), asked.spread * self.spread)

    def _is_complete(self, look: int) -> bool:
        """Whether all have a record on each of the first seeds."""
        first = self._fresh[:look]
        return len(first) == look and all(seed in found for found in self._finals.values() for seed in first)

    def _score(self, record: Record) -> float | None:
        found = _finite(self.study, record)
        if found is not None:
            return found
        if record.lost:
            return None
        return self._worst

    @cached_property
    def _worst(self) -> float | None:
        """What a failed run scores; None while none has come to its end."""
        records = [record for runs in self._finals.values() for record in runs.values()]
        scores = [score for record in records if (score := _finite(self.study, record)) is not None]
        if not scores:
            return None
        return min(scores) - max(self.spread, self.study.settings.margin.at(abs(max(scores))))


def relate(ends: Ends | None, margin: float, floor: float = 0.0) -> Relation:
    """Reads off an interval what may be said.

    Args:
        ends: of the interval; None where there are too few seeds to tell anything.
        margin: the smallest difference worth having.
        floor: how much of a lead may be the luck of tuning.
    """
    if ends is None:
        return "unresolved"
    low, high = ends
    if -margin <= low and high <= margin:
        return "equivalent"
    least = margin + floor
    if low > least:
        return "ahead"
    return "behind" if high < -least else "unresolved"


def luck_of_tuning(study: Study, space: Space) -> float:
    """How far two optimizers that are equal may end apart because the search came closer to one's best.

    A share of what separates the best trial from the third in tuning, less what the seeds alone would. Not
    known of fewer than 8 trials, and then zero.
    """
    scores = sorted(
        (study.better(r.validation.metric) for r in study.tuning_of(space) if r.validation is not None),
        reverse=True,
    )
    noise = _noise(study)
    if len(study.tuning_of(space)) < ENOUGH or len(scores) < 3 or noise is None:
        return 0.0
    return LUCK * max(0.0, scores[0] - scores[2] - NOISE * noise)


def _by_seed(study: Study, space: Space, seeds: Sequence[int]) -> dict[int, Record]:
    # With those that accidents took: a look need not wait for them.
    found = {record.trial.seed: record for record in study.of(space, "final")}
    return {seed: found[seed] for seed in seeds if seed in found}


def _noise(study: Study) -> float | None:
    """The standard deviation between seeds on validation, pooled over the configurations confirmed."""
    groups: dict[str, list[float]] = {}
    for space in study.spaces:
        for record in study.of(space, "confirm"):
            if record.validation is not None:
                groups.setdefault(f"{space.name} {record.trial.settings}", []).append(
                    record.validation.metric
                )
    squares = [statistics.variance(group) for group in groups.values() if len(group) > 1]
    return math.sqrt(statistics.fmean(squares)) if squares else None


def _finite(study: Study, record: Record) -> float | None:
    """The test metric so that larger is better; None unless the run came to a finite end."""
    if record.test is None or not math.isfinite(record.test.metric):
        return None
    return study.better(record.test.metric)
