"""Studies of made-up results: the real protocol says what to run, the real verdict what may be said."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from thalweg.lab.judging.verdict import Verdict, judge
from thalweg.lab.simulating.families import START, Family
from thalweg.lab.spaces import Axis, Space
from thalweg.lab.study import protocol
from thalweg.lab.study.looks import looks_up_to
from thalweg.lab.study.record import Failure, Point, Record, Timing, Trial
from thalweg.lab.study.study import Margin, Settings, Study, margin_of
from thalweg.lab.workload import Evaluation, Split, Workload

SEEDS = 24
"""The most seeds of a study."""

TRIALS = 16
"""Configurations of each optimizer, where tuning matters; else one."""

MARGIN = 1.0
"""The margin of the case in which all others are exactly one behind; 0.5 points of an accuracy."""

NEAR = 1e-9
"""Differences of truths that are rounding."""


@dataclass(frozen=True)
class Case:
    """What is asked of a family.

    Attributes:
        name: of the case.
        margin: the smallest difference worth having; None for the usual one.
        lead: by how much the first optimizer is better than all others in truth.
    """

    name: str
    margin: float | None
    lead: float


@dataclass(frozen=True)
class Outcome:
    """What became of one study.

    Attributes:
        ahead: whether some optimizer was said to be ahead that is not, by whatever little.
        beyond: whether one was said to be ahead by more than the margin that is not.
        equivalent: whether a pair was said to be equivalent that is not.
        told: whether the first was told from all others, as ahead.
        covered: the share of the pairs whose interval holds the truth.
        all_covered: whether all do.
        seeds: how many were run.
    """

    ahead: bool
    beyond: bool
    equivalent: bool
    told: bool
    covered: float
    all_covered: bool
    seeds: int


class MadeUp(Workload):
    """A workload that is never trained."""

    name = "made-up"
    metric = "score"
    higher_is_better = True
    steps = evaluate_every = 100
    batch_size = 1

    def __init__(self, family: Family) -> None:
        if family.discrete:
            self.metric, self.unit, self.difference_unit = "accuracy", "%", "points"

    def model(self, seed: int) -> nn.Module:
        """A model to be described."""
        return nn.Linear(1, 1)

    def batches(self, seed: int) -> Iterator[Any]:
        """Nothing is trained."""
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Nothing is trained."""
        raise NotImplementedError

    def evaluate(self, model: nn.Module, split: Split) -> Evaluation:
        """Nothing is trained."""
        raise NotImplementedError


def cases(family: Family) -> list[Case]:
    """Equal optimizers at a margin of zero and at the usual one, one margin behind, and a clear lead."""
    small = 0.5 if family.discrete else MARGIN
    return [
        Case("equal, margin 0", 0.0, 0.0),
        Case("equal, usual margin", None, 0.0),
        Case("one margin behind", small, family.lead(small)),
        Case("a lead of 1.5", 0.0, family.lead(1.5)),
    ]


def outcomes(
    family: Family, case: Case, optimizers: int, numbers: Sequence[int], seed: int
) -> Iterator[Outcome]:
    """The studies of these numbers, one after the other."""
    for number in numbers:
        yield outcome(family, case, optimizers, np.random.SeedSequence([seed, optimizers, number]))


def outcome(family: Family, case: Case, optimizers: int, seed: np.random.SeedSequence) -> Outcome:
    """One study from its first run to its verdict."""
    generator = np.random.default_rng(seed)
    study = begin(family, case, optimizers, int(generator.integers(2**32)))
    leads = np.zeros(optimizers)
    leads[0] = case.lead
    study = complete(study, family, leads, generator)
    names = [space.name for space in study.spaces]
    truth = {name: family.mean(lead) for name, lead in zip(names, leads.tolist(), strict=True)}
    return _judged(study, judge(study), truth, case)


def begin(family: Family, case: Case, optimizers: int, seed: int) -> Study:
    """A study before its first run."""
    workload = MadeUp(family)
    margin = margin_of(workload) if case.margin is None else Margin(case.margin)
    settings = Settings(TRIALS if family.curvature else 1, SEEDS, margin, seed % 2**32, looks_up_to(SEEDS))
    return Study(workload, settings, _spaces(optimizers))


def complete(study: Study, family: Family, leads: np.ndarray, generator: np.random.Generator) -> Study:
    """Runs what the protocol asks for until it asks for no more, with made-up results."""
    peaks = generator.uniform(-0.5, 0.5, len(leads))
    by_seed: dict[tuple[int, str], list[float | None]] = {}
    place = {space.name: index for index, space in enumerate(study.spaces)}
    records: list[Record] = []
    while True:
        done = {record.trial.key for record in records}
        due = [trial for trial in protocol.due(study) if trial.key not in done]
        if not due:
            return study
        for trial in due:
            # The configurations of an optimizer have their own luck on a seed, and all what is shared on it.
            key = (trial.seed, "" if trial.stage == "final" else f"{trial.point}")
            if key not in by_seed:
                by_seed[key] = family.scores(generator, leads)
            index = place[trial.name]
            score = by_seed[key][index]
            away = math.log10(next(iter(trial.point.values()))) + 2 - peaks[index]
            if score is None and trial.stage != "final":
                score = 0.0  # an optimizer that is never measured would tell nothing
            records.append(
                _record(family, trial, None if score is None else score - family.curvature * away**2)
            )
        study = study.holding(list(records))


def _record(family: Family, trial: Trial, score: float | None) -> Record:
    start = 10.0 if family.discrete else START
    ended = None if score is None else Evaluation(score, 1.0)
    return Record(
        trial,
        (Point(0, None, start),) if ended is None else (Point(0, None, start), Point(100, 1.0, ended.metric)),
        ended,
        ended if trial.stage == "final" else None,
        Failure("diverged", "made up", 1) if ended is None else None,
        0,
        Timing(1.0, 1.0, 1.0, (0.0,) if ended is None else (0.0, 1.0), "made up"),
    )


def _spaces(count: int) -> list[Space]:
    axis = Axis("lr", 1e-4, 1.0)
    return [Space(f"made-up-{place}", f"made.up.Number{place}", (axis,), source="") for place in range(count)]


def _judged(study: Study, verdict: Verdict, truth: Mapping[str, float], case: Case) -> Outcome:
    ahead = beyond = equivalent = False
    covered, told = [], 0
    for found in verdict.comparisons:
        lead = truth[found.first.name] - truth[found.second.name]
        claimed = 1 if found.relation == "ahead" else -1 if found.relation == "behind" else 0
        better = claimed or (math.copysign(1, found.difference.mean) if found.better else 0)
        ahead |= bool(better) and better * lead <= NEAR
        beyond |= bool(claimed) and claimed * lead <= verdict.margin + NEAR
        equivalent |= found.relation == "equivalent" and abs(lead) > verdict.margin + NEAR
        low, high = found.difference.low, found.difference.high
        covered.append(low is None or high is None or low - NEAR <= lead <= high + NEAR)
        told += "made-up-0" in (
            found.first.name if better > 0 else "",
            found.second.name if better < 0 else "",
        )
    return Outcome(
        ahead,
        beyond,
        equivalent,
        told == len(study.spaces) - 1,
        sum(covered) / max(1, len(covered)),
        all(covered),
        max(row.measured for row in verdict.ranking),
    )
