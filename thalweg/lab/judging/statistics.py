"""Intervals, the ranking, and paired differences with what can be said of them."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from thalweg.lab.spaces import Space
from thalweg.lab.study.evidence import Evidence, Relation
from thalweg.lab.study.intervals import flip_p, of_mean
from thalweg.lab.study.looks import ERROR, fewest_seeds
from thalweg.lab.study.protocol import chosen
from thalweg.lab.study.protocol import evidence as evidence_of
from thalweg.lab.study.record import Record
from thalweg.lab.study.study import Study

__all__ = [
    "Comparison",
    "Interval",
    "Relation",
    "Row",
    "compare",
    "fewest_seeds",
    "final_metrics",
    "holm",
    "margin",
    "mean_interval",
    "rank",
    "surely_best",
]


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval; both ends are None for a single value."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Row:
    """One optimizer in the ranking.

    Attributes:
        space: the optimizer.
        chosen: the tuning record that gave its configuration; None if every trial failed.
        test: the test metric over the fresh seeds, a run that failed counted as the worst outcome; None if
            none came to its end or it has not been measured.
        finished: mean over the runs that came to their end; None without one.
        measured: fresh seeds on which it has an outcome.
        failures: those of them on which it failed.
        seconds: median seconds of training of one final run.
        step_ms: median milliseconds of one optimizer step.
        state_bytes: bytes of optimizer state.
    """

    space: Space
    chosen: Record | None
    test: Interval | None
    finished: float | None
    measured: int
    failures: int
    seconds: float | None
    step_ms: float | None
    state_bytes: int | None


@dataclass(frozen=True)
class Comparison:
    """How far one optimizer is ahead of another, over the seeds on which both have an outcome.

    Attributes:
        first: one optimizer.
        second: the other.
        difference: of the test metric, in its unit; positive where `first` is better. The interval holds
            for all pairs and all looks together; see `thalweg.lab.study.evidence`.
        pairs: the seeds.
        wins: seeds on which `first` is better.
        losses: seeds on which `second` is better.
        p: of the sign-flip test that there is no difference, two-sided.
        p_holm: the same after Holm's adjustment over all pairs of optimizers.
        relation: of `first` to `second`: ``ahead`` when the whole interval lies above the margin,
            ``behind`` when below minus the margin, ``equivalent`` when within it, else ``unresolved``.
        better: whether the interval lies beyond zero and the luck of tuning, whatever the margin.
        seeds_needed: how many seeds would tell the two apart, of a relation that is unresolved.
    """

    first: Space
    second: Space
    difference: Interval
    pairs: int
    wins: int
    losses: int
    p: float
    p_holm: float
    relation: Relation
    better: bool = False
    seeds_needed: float | None = None

    def turned(self) -> "Comparison":
        """The same comparison seen from the other side."""
        low, high = self.difference.low, self.difference.high
        mirror: dict[Relation, Relation] = {"ahead": "behind", "behind": "ahead"}
        return replace(
            self,
            first=self.second,
            second=self.first,
            difference=Interval(
                -self.difference.mean, None if high is None else -high, None if low is None else -low
            ),
            wins=self.losses,
            losses=self.wins,
            relation=mirror.get(self.relation, self.relation),
        )


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % interval of independent values, of shape (n,) with n >= 1; see `intervals.of_mean`."""
    low, high = of_mean(values, ERROR) or (None, None)
    return Interval(statistics.fmean(values), low, high)


def holm(ps: Sequence[float]) -> list[float]:
    """Adjusted p values: at most a level where Holm's procedure rejects at that level (Holm 1979)."""
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    adjusted, highest = [0.0] * len(ps), 0.0
    for place, i in enumerate(order):
        highest = max(highest, min(1.0, (len(ps) - place) * ps[i]))
        adjusted[i] = highest
    return adjusted


def rank(study: Study) -> list[Row]:
    """The optimizers from best to worst mean test metric; those that never finished or have none come last.

    Equal means are in the order of the names, so that the ranking does not depend on the order in which
    the optimizers were asked for.
    """
    found = evidence_of(study)

    def badness(row: Row) -> tuple[bool, float, str]:
        return row.test is None, -study.better(row.test.mean) if row.test else 0.0, row.space.name

    return sorted((_row(study, found, space) for space in study.spaces), key=badness)


def margin(study: Study) -> float:
    """The smallest difference worth having, in the metric's unit."""
    return evidence_of(study).margin


def compare(study: Study, ranking: Sequence[Row]) -> list[Comparison]:
    """All pairs of the optimizers that have an outcome, the one with the better mean first."""
    found = evidence_of(study)
    known = [row.space for row in ranking if found.scores(row.space)]
    # One that never finished has nothing to say beside another.
    pairs = [(a, b) for a, b in combinations(known, 2) if found.finished(a) and found.differences(a, b)]
    ps = [flip_p(found.differences(a, b)) for a, b in pairs]
    return [_comparison(found, a, b, p, q) for (a, b), p, q in zip(pairs, ps, holm(ps), strict=True)]


def surely_best(scores: dict[str, dict[int, float]]) -> list[str]:
    """Who may be the best, best mean first: all that are not surely behind the best mean, larger is better.

    Seed by seed, with Student's t for all who are compared with the best together.
    """
    means = {name: statistics.fmean(found.values()) for name, found in scores.items() if found}
    order = sorted(means, key=lambda name: -means[name])
    if not order:
        return []
    best, close = scores[order[0]], [order[0]]
    for name in order[1:]:
        differences = [best[seed] - score for seed, score in scores[name].items() if seed in best]
        ends = of_mean(differences, ERROR / len(order)) if differences else None
        if ends is None or ends[0] <= 0:
            close.append(name)
    return close


def final_metrics(study: Study, space: Space) -> dict[int, float]:
    """The test metric of each final run that came to its end, by seed."""
    return {r.trial.seed: r.test.metric for r in study.final_of(space) if r.test is not None}


def _comparison(found: Evidence, first: Space, second: Space, p: float, p_holm: float) -> Comparison:
    differences = found.differences(first, second)
    low, high = found.shown(first, second) or (None, None)
    relation = found.relation(first, second)
    return Comparison(
        first,
        second,
        Interval(statistics.fmean(differences), low, high),
        pairs=len(differences),
        wins=sum(difference > 0 for difference in differences),
        losses=sum(difference < 0 for difference in differences),
        p=p,
        p_holm=p_holm,
        relation=relation,
        better=found.relation(first, second, 0.0) in ("ahead", "behind"),
        seeds_needed=found.seeds_needed(first, second) if relation == "unresolved" else None,
    )


def _row(study: Study, found: Evidence, space: Space) -> Row:
    final, scores = study.final_of(space), found.scores(space)
    ends = [r.test.metric for r in final if r.test is not None and math.isfinite(r.test.metric)]
    timings = [record.timing for record in final if record.timing is not None]
    return Row(
        space=space,
        chosen=chosen(study, space),
        test=mean_interval([study.better(score) for score in scores.values()]) if ends else None,
        finished=statistics.fmean(ends) if ends else None,
        measured=len(scores),
        failures=len(scores) - len(ends),
        seconds=statistics.median(timing.seconds for timing in timings) if timings else None,
        step_ms=statistics.median(timing.step_ms for timing in timings) if timings else None,
        state_bytes=max(record.state_bytes for record in final) if final else None,
    )
