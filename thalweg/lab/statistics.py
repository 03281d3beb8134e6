"""Intervals, the ranking, and pairwise differences."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from thalweg.lab.spaces import Space
from thalweg.lab.study import Study
from thalweg.lab.trial import Record

CONFIDENCE = 0.95
RESAMPLES = 9_999

FEWEST_SEEDS = 6
"""With fewer pairs no difference can be told: even if all n agree, 2 / 2**n is above 0.05."""

Relation = Literal["ahead", "behind", "equivalent", "unresolved"]


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
        chosen: the tuning record that gave its learning rate; None if every trial diverged.
        test: the test metric over the fresh seeds; None if any of them has none.
        failures: fresh seeds on which it diverged (all of them if it has no learning rate).
        seconds: median seconds of training of one final run.
        step_ms: median milliseconds of one optimizer step.
        state_bytes: bytes of optimizer state.
    """

    space: Space
    chosen: Record | None
    test: Interval | None
    failures: int
    seconds: float | None
    step_ms: float | None
    state_bytes: int | None


@dataclass(frozen=True)
class Comparison:
    """How far one optimizer is ahead of another, over paired seeds.

    Attributes:
        first: one optimizer.
        second: the other.
        difference: of the test metric, in its unit; positive where `first` is better.
        wins: seeds on which `first` is better.
        losses: seeds on which `second` is better.
        relation: of `first` to `second`; ``ahead`` when the whole interval lies above the margin,
            ``behind`` when it lies below minus the margin, ``equivalent`` when it lies within
            them, ``unresolved`` otherwise or when there are too few seeds.
    """

    first: Space
    second: Space
    difference: Interval
    wins: int
    losses: int
    relation: Relation


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean and bootstrap 95 % interval of independent values, of shape (n,) with n >= 1.

    The percentile bootstrap is too narrow for few values; its percentiles are widened so that, for
    a mean of normal values, it agrees with Student's t (Hesterberg 2015, "What teachers should
    know about the bootstrap", the expanded percentile interval). The resampling is seeded, so
    equal values always give an equal interval. Given differences of pairs, this is the paired
    bootstrap.
    """
    mean, n = statistics.fmean(values), len(values)
    if n == 1:
        return Interval(mean, None, None)
    t = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)
    tail = stats.norm.cdf(-math.sqrt(n / (n - 1)) * t)
    resamples = np.random.default_rng(0).choice(np.asarray(values), (RESAMPLES, n)).mean(axis=1)
    low, high = np.quantile(resamples, [tail, 1 - tail])
    return Interval(mean, float(low), float(high))


def relate(difference: Interval, margin: float, pairs: int) -> Relation:
    """See `Comparison.relation`."""
    if difference.low is None or difference.high is None or pairs < FEWEST_SEEDS:
        return "unresolved"
    if difference.low > margin:
        return "ahead"
    if difference.high < -margin:
        return "behind"
    if -margin <= difference.low and difference.high <= margin:
        return "equivalent"
    return "unresolved"


def final_metrics(study: Study, space: Space) -> list[float]:
    """The test metric of each final run that did not diverge, in the order of the seeds."""
    return [record.test.metric for record in study.final_of(space) if record.test is not None]


def compare(study: Study, first: Space, second: Space) -> Comparison:
    """Compares two optimizers, both of which have a test metric on every seed."""
    sign = 1 if study.workload.higher_is_better else -1
    pairs = zip(final_metrics(study, first), final_metrics(study, second), strict=True)
    differences = [sign * (a - b) for a, b in pairs]
    interval = mean_interval(differences)
    return Comparison(
        first,
        second,
        interval,
        wins=sum(difference > 0 for difference in differences),
        losses=sum(difference < 0 for difference in differences),
        relation=relate(interval, study.settings.margin, len(differences)),
    )


def rank(study: Study) -> list[Row]:
    """The optimizers from best to worst mean test metric; those that failed on a seed come last.

    Equal means are in the order of the names, so that the ranking does not depend on the order in which
    the optimizers were asked for.
    """
    sign = -1 if study.workload.higher_is_better else 1

    def badness(row: Row) -> tuple[int, float, str]:
        return row.failures, sign * row.test.mean if row.test else 0.0, row.space.name

    return sorted((_row(study, space) for space in study.spaces), key=badness)


def _row(study: Study, space: Space) -> Row:
    final, values = study.final_of(space), final_metrics(study, space)
    failures = study.settings.seeds - len(values)
    return Row(
        space=space,
        chosen=study.chosen(space),
        test=None if failures else mean_interval(values),
        failures=failures,
        seconds=statistics.median(r.timing.seconds for r in final) if final else None,
        step_ms=statistics.median(r.timing.step_ms for r in final) if final else None,
        state_bytes=final[0].state_bytes if final else None,
    )
