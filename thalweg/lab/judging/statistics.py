"""Intervals, the ranking, and paired differences with what can be said of them."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
from scipy import stats

from thalweg.lab.spaces import Space
from thalweg.lab.study.protocol import chosen
from thalweg.lab.study.record import Record
from thalweg.lab.study.study import Study

CONFIDENCE = 0.95
RESAMPLES = 9_999

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
        chosen: the tuning record that gave its configuration; None if every trial failed.
        test: the test metric over the fresh seeds; None if it failed on one or has not been measured.
        measured: fresh seeds on which it ran.
        failures: those of them on which it failed.
        seconds: median seconds of training of one final run.
        step_ms: median milliseconds of one optimizer step.
        state_bytes: bytes of optimizer state.
    """

    space: Space
    chosen: Record | None
    test: Interval | None
    measured: int
    failures: int
    seconds: float | None
    step_ms: float | None
    state_bytes: int | None


@dataclass(frozen=True)
class Comparison:
    """How far one optimizer is ahead of another, over the seeds on which both were measured.

    Attributes:
        first: one optimizer.
        second: the other.
        difference: of the test metric, in its unit; positive where `first` is better.
        pairs: the seeds.
        wins: seeds on which `first` is better.
        losses: seeds on which `second` is better.
        p: of Wilcoxon's signed-rank test, two-sided, exact.
        p_holm: the same after Holm's adjustment over all pairs of optimizers.
        relation: of `first` to `second`; ``ahead`` when the whole interval lies above the margin
            and `p_holm` is at most 0.05, ``behind`` likewise below minus the margin,
            ``equivalent`` when the interval lies within the margin, ``unresolved`` otherwise or
            when there are too few seeds.
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


def signed_rank(differences: Sequence[float]) -> float:
    """The two-sided p of Wilcoxon's signed-rank test, exact, of shape (n,) with n >= 1.

    Accuracies tie often, and with ties or zeros the usual tables do not hold. The null distribution is
    therefore that of the ranks at hand over all 2^n signs. Zeros keep their rank and count half for
    either side, whatever the signs (``zsplit``).
    """
    values = np.asarray(differences)
    # Ranks of ties are halves: twice the ranks are whole numbers, and so are their sums.
    ranks = np.rint(2 * stats.rankdata(np.abs(values))).astype(int)
    chances = np.ones(1)
    for rank in ranks[values != 0]:
        # By sum of the positive ranks: this one is negative or positive with equal chance.
        chances = (np.pad(chances, (0, rank)) + np.pad(chances, (rank, 0))) / 2
    seen = int(ranks[values > 0].sum())
    return float(min(1.0, 2 * min(chances[seen:].sum(), chances[: seen + 1].sum())))


def holm(ps: Sequence[float]) -> list[float]:
    """Adjusted p values: at most a level where Holm's procedure rejects at that level (Holm 1979)."""
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    adjusted, highest = [0.0] * len(ps), 0.0
    for place, i in enumerate(order):
        highest = max(highest, min(1.0, (len(ps) - place) * ps[i]))
        adjusted[i] = highest
    return adjusted


def fewest_seeds(optimizers: int) -> int:
    """The fewest seeds with which a difference can be told: all agree, and Holm still rejects."""
    pairs = max(1, math.comb(optimizers, 2))
    return math.ceil(math.log2(2 * pairs / (1 - CONFIDENCE)))


def relate(difference: Interval, p_holm: float, margin: float) -> Relation:
    """See `Comparison.relation`; the caller has seen to it that there are seeds enough."""
    if difference.low is None or difference.high is None:
        return "unresolved"
    if -margin <= difference.low and difference.high <= margin:
        return "equivalent"
    if p_holm > 1 - CONFIDENCE:
        return "unresolved"
    if difference.low > margin:
        return "ahead"
    return "behind" if difference.high < -margin else "unresolved"


def rank(study: Study) -> list[Row]:
    """The optimizers from best to worst mean test metric; those that failed or have none come last.

    Equal means are in the order of the names, so that the ranking does not depend on the order in which
    the optimizers were asked for.
    """

    def badness(row: Row) -> tuple[bool, int, float, str]:
        quality = study.better(row.test.mean) if row.test else 0.0
        return row.test is None, row.failures, -quality, row.space.name

    return sorted((_row(study, space) for space in study.spaces), key=badness)


def margin(study: Study, ranking: Sequence[Row]) -> float:
    """The smallest difference worth having, in the metric's unit."""
    level = ranking[0].test.mean if ranking and ranking[0].test else 0.0
    return study.settings.margin.at(level)


def compare(study: Study, ranking: Sequence[Row]) -> list[Comparison]:
    """All pairs of the optimizers that never failed, the one with the better mean first."""
    sound = [row.space for row in ranking if row.test is not None]
    pairs = [(a, b, _differences(study, a, b)) for a, b in combinations(sound, 2)]
    pairs = [pair for pair in pairs if pair[2]]
    ps = [signed_rank(differences) for _, _, differences in pairs]
    least, enough = margin(study, ranking), fewest_seeds(len(study.spaces))
    comparisons = []
    for (first, second, differences), p, p_holm in zip(pairs, ps, holm(ps), strict=True):
        interval = mean_interval(differences)
        few = len(differences) < enough
        comparisons.append(
            Comparison(
                first,
                second,
                interval,
                pairs=len(differences),
                wins=sum(difference > 0 for difference in differences),
                losses=sum(difference < 0 for difference in differences),
                p=p,
                p_holm=p_holm,
                relation="unresolved" if few else relate(interval, p_holm, least),
            )
        )
    return comparisons


def final_metrics(study: Study, space: Space) -> dict[int, float]:
    """The test metric of each final run that came to its end, by seed."""
    return {r.trial.seed: r.test.metric for r in study.final_of(space) if r.test is not None}


def _differences(study: Study, first: Space, second: Space) -> list[float]:
    ours, others = final_metrics(study, first), final_metrics(study, second)
    return [study.better(ours[seed]) - study.better(others[seed]) for seed in ours if seed in others]


def _row(study: Study, space: Space) -> Row:
    final, values = study.final_of(space), final_metrics(study, space)
    failures = len(final) - len(values)
    timings = [record.timing for record in final if record.timing is not None]
    return Row(
        space=space,
        chosen=chosen(study, space),
        test=mean_interval(list(values.values())) if values and not failures else None,
        measured=len(final),
        failures=failures,
        seconds=statistics.median(timing.seconds for timing in timings) if timings else None,
        step_ms=statistics.median(timing.step_ms for timing in timings) if timings else None,
        state_bytes=max(record.state_bytes for record in final) if final else None,
    )
