"""What the records of a claim's experiments tell: outcomes by arm and seed, larger is better."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from thalweg.lab.lesson.plans import ends_of
from thalweg.lab.spaces import Space
from thalweg.lab.study import protocol
from thalweg.lab.study.evidence import Evidence
from thalweg.lab.study.record import Record
from thalweg.lab.study.study import Study

Outcome = Callable[[Record], float]
"""Reads a number off a final run that came to its end."""

Scores = Mapping[int, float]
"""A number for each seed."""


@dataclass(frozen=True)
class Found:
    """The studies of a claim, by the names of its experiments."""

    studies: Mapping[str, Study]

    def __getitem__(self, name: str) -> Study:
        return self.studies[name]


def finals(study: Study, arm: str) -> dict[int, Record]:
    """The final runs of an arm by seed, without those that accidents took."""
    return {record.trial.seed: record for record in study.final_of(named(study, arm))}


def named(study: Study, arm: str) -> Space:
    """The arm of that name."""
    return next(space for space in study.spaces if space.name == arm)


def scores(study: Study, arm: str) -> dict[int, float]:
    """The test metric of an arm by seed, with its sign turned so that larger is better.

    A run that failed counts as the worst outcome; see `thalweg.lab.study.evidence`.
    """
    return _evidence(study).scores(named(study, arm))


def _evidence(study: Study) -> Evidence:
    """That of all arms, tuned or not."""
    _, _, fresh = protocol.seeds(study.settings)
    return Evidence(study, study.spaces, fresh)


def faster(study: Study, slow: str, fast: str) -> dict[int, float]:
    """The logarithm of the steps that one arm takes over those of another, of a study that counts steps."""
    return log_ratio(_steps(study, slow), _steps(study, fast))


def _steps(study: Study, arm: str) -> dict[int, float]:
    return {seed: -score for seed, score in scores(study, arm).items()}


def log_steps(study: Study, arm: str) -> dict[int, float]:
    """Logarithms of the steps of an arm, turned so that fewer are more."""
    return {seed: -math.log(steps) for seed, steps in _steps(study, arm).items()}


def negative_loss(study: Study, arm: str) -> dict[int, float]:
    """Logarithms of the test loss of an arm, turned so that less is more."""
    return {seed: -math.log(loss) for seed, loss in outcomes(study, arm, test_metric).items()}


def range_of(study: Study) -> dict[int, float]:
    """How far the arms that tuned best and worst are apart on the fresh seeds."""
    best, worst = ends_of(study)
    return ahead(study, best, worst)


def rates_of(study: Study) -> str:
    """How far the first arm's metric ranges in tuning over rates within a decade of its best, in words."""
    best = protocol.chosen(study, study.spaces[0])
    if best is None:
        return "not run"
    near = [
        r.validation.metric if r.validation is not None else math.nan
        for r in study.tuning_of(study.spaces[0])
        if abs(math.log10(r.trial.lr / best.trial.lr)) <= 1.01
    ]
    ended = [metric for metric in near if math.isfinite(metric)]
    failed = f", {len(near) - len(ended)} of {len(near)} rates failed" if len(ended) < len(near) else ""
    unit = study.workload.difference_unit or study.workload.unit
    return f"{max(ended) - min(ended):.3g} {unit} on validation, one seed{failed}"


def lower_loss(study: Study, worse: str, better: str) -> dict[int, float]:
    """The logarithm of one arm's loss over that of another."""
    return log_ratio(outcomes(study, worse, test_metric), outcomes(study, better, test_metric))


def ahead(study: Study, first: str, second: str) -> dict[int, float]:
    """By how much one arm's metric is better than another's, in the metric's unit."""
    return minus(scores(study, first), scores(study, second))


def ahead_of_best(study: Study, first: str, others: Sequence[str]) -> dict[int, float]:
    """The same, of the one among others that validation chose."""
    best = best_of(study, others)
    return {} if best is None else ahead(study, first, best)


def swept(study: Study, arm: str) -> dict[int, list[Record]]:
    """The runs of an arm in a sweep, by seed, each from the lowest rate to the highest."""
    found: dict[int, list[Record]] = {}
    for record in sorted(study.of(named(study, arm), "final"), key=lambda r: r.trial.lr):
        found.setdefault(record.trial.seed, []).append(record)
    return found


def width(study: Study, arm: str) -> dict[int, float]:
    """Decades of learning rate within the margin of the arm's best rate, by seed, of a sweep.

    Between two rates the metric counts as a straight line over the rate's logarithm; a run that failed is
    worse than any margin.
    """
    margin = _sweep_margin(study)
    return {seed: _within(study, runs, margin) for seed, runs in swept(study, arm).items()}


def _within(study: Study, runs: Sequence[Record], margin: float) -> float:
    scored = [None if r.test is None else study.better(r.test.metric) for r in runs]
    ended = [score for score in scored if score is not None]
    if not ended:
        return 0.0
    least, decades = max(ended) - margin, [math.log10(r.trial.lr) for r in runs]
    return sum(
        (right - left) * _share(above, below, least)
        for left, right, above, below in zip(decades, decades[1:], scored, scored[1:], strict=False)
    )


def _share(first: float | None, second: float | None, least: float) -> float:
    """The share of the way between two rates on which the metric is at least so good."""
    if first is None or second is None or max(first, second) < least:
        return 0.0
    if min(first, second) >= least:
        return 1.0
    return (max(first, second) - least) / abs(first - second)


def _sweep_margin(study: Study) -> float:
    """The margin of a sweep's workload, where the best mean is that of the best rate of any arm."""
    means = []
    for space in study.spaces:
        by_rate: dict[float, list[float]] = {}
        for record in study.of(space, "final"):
            if record.test is not None:
                by_rate.setdefault(record.trial.lr, []).append(study.better(record.test.metric))
        means += [sum(found) / len(found) for found in by_rate.values()]
    return study.settings.margin.at(max(means)) if means else 0.0


def expected_best(study: Study, arm: str, count: int) -> dict[int, float]:
    """What the best of `count` rates drawn from a sweep is expected to score, by seed, larger is better.

    Of each set of rates the one that is best on validation counts with its test metric. A set in which all
    failed counts as the worst run of the sweep that came to its end. Of fewer rates all are drawn.
    """
    ended = [study.better(r.test.metric) for s in study.spaces for r in study.of(s, "final") if r.test]
    return {
        seed: _expected(study, runs, count, min(ended)) for seed, runs in swept(study, arm).items() if ended
    }


def _expected(study: Study, runs: Sequence[Record], count: int, worst: float) -> float:
    def validated(record: Record) -> float:
        return -math.inf if record.validation is None else study.better(record.validation.metric)

    count = min(count, len(runs))
    total, order = 0.0, sorted(runs, key=validated, reverse=True)
    for place, record in enumerate(order):
        # The sets in which this one is the best: the others are all further down.
        sets = math.comb(len(order) - place - 1, count - 1)
        total += sets * (worst if record.test is None else study.better(record.test.metric))
    return total / math.comb(len(order), count)


def best_swept(study: Study, arm: str) -> dict[int, float]:
    """What the best of all rates scores, chosen on each seed's validation, larger is better."""
    return {seed: _expected(study, runs, len(runs), -math.inf) for seed, runs in swept(study, arm).items()}


def typical_swept(study: Study, arm: str) -> dict[int, float]:
    """What a rate scores that is drawn at random from the sweep."""
    return expected_best(study, arm, 1)


def in_sweep_margins(study: Study, values: Scores) -> dict[int, float]:
    """Differences of a sweep's metric in units of its margin."""
    margin = _sweep_margin(study)
    return {seed: value / margin for seed, value in values.items()} if margin else {}


def in_margins(study: Study, values: Scores) -> dict[int, float]:
    """Differences of the metric in units of the workload's margin."""
    margin = _evidence(study).margin
    return {seed: value / margin for seed, value in values.items()} if margin else {}


def outcomes(study: Study, arm: str, outcome: Outcome) -> dict[int, float]:
    """Another number of the final runs of an arm, by seed, of which less is better.

    A run that failed counts as the worst of the study's that did not.
    """
    ended = [outcome(r) for s in study.spaces for r in study.final_of(s) if r.test is not None]
    return {
        seed: outcome(record) if record.test is not None else max(ended)
        for seed, record in finals(study, arm).items()
        if ended
    }


def further(name: str) -> Outcome:
    """Reads one of the further figures of the test split."""
    return lambda record: record.further["test"][name]


def sharpness(
    study: Study, arm: str, part: Literal["sharpness", "adaptive"] = "sharpness"
) -> dict[int, float]:
    """The sharpness at the end of an arm's runs, of those in which it was measured; see `docs/why.md`."""
    whys = {seed: record.why for seed, record in finals(study, arm).items()}
    measured = {seed: getattr(why, part) for seed, why in whys.items() if why is not None}
    return {seed: found.value for seed, found in measured.items() if found is not None and found.value > 0}


def test_metric(record: Record) -> float:
    """Reads the test metric."""
    assert record.test is not None
    return record.test.metric


def log_ratio(above: Scores, below: Scores) -> dict[int, float]:
    """The natural logarithm of the ratio of two positive numbers, on the seeds that both have."""
    return {seed: math.log(above[seed] / below[seed]) for seed in above if seed in below}


def minus(first: Scores, second: Scores) -> dict[int, float]:
    """The difference, on the seeds that both have."""
    return {seed: first[seed] - second[seed] for seed in first if seed in second}


def mean_of(several: Sequence[Scores]) -> dict[int, float]:
    """The mean of several numbers, on the seeds that all have."""
    if not several:
        return {}
    common = set(several[0]).intersection(*several[1:])
    return {seed: sum(one[seed] for one in several) / len(several) for seed in several[0] if seed in common}


def best_of(study: Study, arms: Sequence[str]) -> str | None:
    """The arm that was best on validation: over its confirmation runs, else in its tuning; None without any.

    Chosen before the fresh seeds, so that a difference to it is not one to the luckiest.
    """
    known = {arm: quality for arm in arms if (quality := _validated(study, named(study, arm))) is not None}
    return max(known, key=lambda arm: known[arm]) if known else None


def _validated(study: Study, space: Space) -> float | None:
    record = protocol.chosen(study, space)
    if record is None:
        return None
    runs = [r for r in study.of(space, "confirm") if r.trial.settings == record.trial.settings] or [record]
    if any(r.validation is None for r in runs):
        return -math.inf
    return sum(study.better(r.validation.metric) for r in runs if r.validation is not None) / len(runs)
