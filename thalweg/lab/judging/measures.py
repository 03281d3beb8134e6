"""What else the records tell of an optimizer: what tuning buys, how forgiving it is, how soon it is there."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from thalweg.lab.spaces import Axis, Space
from thalweg.lab.study.looks import ERROR
from thalweg.lab.study.protocol import chosen, rate_range
from thalweg.lab.study.protocol import evidence as evidence_of
from thalweg.lab.study.record import Record
from thalweg.lab.study.study import Study


@dataclass(frozen=True)
class Basin:
    """How wide the range of good learning rates is.

    Attributes:
        decades: of learning rate within the margin of the optimizer's own best on validation.
        searched: decades that were searched.
        low: lower end of the 95 % interval of `decades`, by Clopper and Pearson over the trials.
        high: upper end.
    """

    decades: float
    searched: float
    low: float
    high: float


@dataclass(frozen=True)
class Reached:
    """When an optimizer's final runs first reach the target on validation.

    Attributes:
        runs: how many do.
        of: out of how many.
        steps: median steps; None unless more than half of the runs reach it.
        seconds: median seconds of training, likewise.
    """

    runs: int
    of: int
    steps: float | None
    seconds: float | None


@dataclass(frozen=True)
class Early:
    """What ending hopeless trials has saved and cost.

    Attributes:
        ended: trials that were ended early.
        finished: hopeless ones that were finished all the same, a tenth drawn at random.
        good: those of them that came to beat the median trial of their optimizer.
        chosen: those of them whose settings were chosen.
    """

    ended: int
    finished: int
    good: int
    chosen: int


def early(study: Study) -> Early:
    """How many trials were hopeless, and what became of the tenth that was finished."""
    ended = finished = good = taken = 0
    for space in study.spaces:
        trials = study.tuning_of(space)
        scores = _scores(study, [record for record in trials if record.validation is not None])
        chosen_one = chosen(study, space)
        for record in trials:
            ended += record.failure is not None and record.failure.kind == "ended early"
            finished += record.hopeless is not None
            if record.hopeless is not None and record.validation is not None:
                good += study.better(record.validation.metric) > statistics.median(scores)
                taken += record is chosen_one
    return Early(ended, finished, good, taken)


def best_of_k(study: Study, space: Space) -> list[float]:
    """The expected best validation metric of k = 1 .. n trials drawn from the n that were run.

    The expectation is exact, over all subsets of k trials (Dodge et al. 2019, "Show your work",
    arXiv 1909.03004, without replacement). A failed trial counts as the worst that finished. Only the
    first range is counted, of which every optimizer got the same number of trials. Empty if none finished.
    """
    scores = sorted(_scores(study, study.of(space, "tune")))
    n = len(scores)
    expected = []
    for k in range(1, n + 1):
        # The i-th smallest is the best of k in comb(i, k - 1) of the comb(n, k) subsets.
        shares = [math.comb(i, k - 1) / math.comb(n, k) for i in range(n)]
        expected.append(study.better(math.fsum(s * share for s, share in zip(scores, shares, strict=True))))
    return expected


def basin(study: Study, space: Space, margin: float) -> Basin | None:
    """How many decades of learning rate stay within `margin` of the best; None if every trial failed.

    The trials of a range are spread evenly over its logarithm, so the share of them that is good,
    times the decades of the range, is the width. Where other hyperparameters are searched too, it is
    the width averaged over them.
    """
    scores = _scores(study, study.tuning_of(space))
    if not scores:
        return None
    best, wide = max(scores), rate_range(study, space)
    first = space.axes[0]
    ranges = [first]
    if wide.high > first.high:
        ranges.append(Axis(first.name, first.high, wide.high))
    if wide.low < first.low:
        ranges.append(Axis(first.name, wide.low, first.low))
    counts = [_good(study, space, part, best - margin) for part in ranges]
    widths = [
        _decades(part) * good / of if of else 0.0 for part, (good, of) in zip(ranges, counts, strict=True)
    ]
    searched = sum(map(_decades, ranges))
    low, high = _share(sum(good for good, _ in counts), sum(of for _, of in counts))
    return Basin(sum(widths), searched, low * searched, high * searched)


def target(study: Study) -> float | None:
    """The workload's target; where it states none, what every optimizer that never failed arrives at.

    That is the worst of their mean validation metrics after the last step of the final runs, less the
    margin; None without such runs.
    """
    if study.workload.target is not None:
        return study.workload.target
    means = []
    for space in study.spaces:
        ends = [record.validation for record in study.final_of(space)]
        metrics = [end.metric for end in ends if end is not None]
        if metrics and len(metrics) == len(ends):
            means.append(statistics.fmean(map(study.better, metrics)))
    if not means:
        return None
    worst = min(means)
    return study.better(worst - evidence_of(study).margin)


def reached(study: Study, space: Space, level: float) -> Reached:
    """When the final runs of an optimizer first reach `level` on validation."""
    final = study.final_of(space)
    steps, seconds = [], []
    for record in final:
        place = _first(study, record, level)
        steps.append(math.inf if place is None else float(record.curve[place].step))
        seconds.append(math.inf if place is None or record.timing is None else record.timing.at[place])
    runs = sum(map(math.isfinite, steps))
    return Reached(runs, len(final), _finite_median(steps), _finite_median(seconds))


def soonness(study: Study, space: Space, level: float, *, seconds: bool) -> dict[int, float]:
    """How soon each final run is there, larger is sooner, by seed; one that never is, as twice the whole."""
    found = {}
    for record in study.final_of(space):
        place, timing = _first(study, record, level), record.timing
        if place is not None and not seconds:
            found[record.trial.seed] = -float(record.curve[place].step)
        elif place is not None and timing is not None:
            found[record.trial.seed] = -timing.at[place]
        elif place is None:
            found[record.trial.seed] = -2.0 * (study.workload.steps if not seconds else _longest(study))
    return found


def _longest(study: Study) -> float:
    return max((r.timing.seconds for r in study.records if r.timing is not None), default=0.0)


def _first(study: Study, record: Record, level: float) -> int | None:
    for place, point in enumerate(record.curve):
        if study.better(point.metric) >= study.better(level):
            return place
    return None


def _finite_median(values: Sequence[float]) -> float | None:
    if not values:
        return None
    # The upper median is infinite as soon as half of the runs do not arrive; a mean of two middle
    # values would be too.
    middle = statistics.median(values)
    return middle if math.isfinite(middle) else None


def _scores(study: Study, records: Sequence[Record]) -> list[float]:
    """The validation metrics, larger is better; a failed run counts as the worst that finished."""
    finished = [study.better(r.validation.metric) for r in records if r.validation is not None]
    if not finished:
        return []
    return finished + [min(finished)] * (len(records) - len(finished))


def _good(study: Study, space: Space, part: Axis, least: float) -> tuple[int, int]:
    """How many trials of a range are good, and how many there are."""
    inside = [
        record for record in study.tuning_of(space) if part.low <= record.trial.point[part.name] <= part.high
    ]
    good = sum(r.validation is not None and study.better(r.validation.metric) >= least for r in inside)
    return good, len(inside)


def _share(count: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share (Clopper and Pearson 1934)."""
    found = stats.binomtest(count, of).proportion_ci(1 - ERROR, method="exact")
    return float(found.low), float(found.high)


def _decades(axis: Axis) -> float:
    return math.log10(axis.high / axis.low)


def seeds_are_one(study: Study, space: Space) -> bool:
    """Whether all fresh seeds gave exactly the same run."""
    finals = study.final_of(space)
    if len(finals) < 2 or any(record.failure for record in finals):
        return False
    return len({(record.curve, record.test) for record in finals}) == 1
