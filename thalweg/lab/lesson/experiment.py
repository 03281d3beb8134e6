"""What a claim needs to be run: arms on one workload, and a plan that names runs from their records."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from thalweg.lab.lesson.plans import extremes
from thalweg.lab.running.execution import Plan
from thalweg.lab.spaces import Space
from thalweg.lab.study import protocol
from thalweg.lab.study.record import Record, Trial
from thalweg.lab.study.study import Settings, Study, margin_of
from thalweg.lab.workload import Evaluation, Workload

TRIALS = 12
"""Learning rates that each arm is tried at, before those by which a range is extended."""

SEEDS = 12
"""Fresh seeds on which every arm is measured; the same for all claims, so that endpoints can be paired."""

SEED = 2026
"""From it come the rates that are tried and all seeds."""

QUICK_TRIALS, QUICK_SEEDS, QUICK_STEPS, QUICK_ARMS = 2, 2, 6, 3


@dataclass(frozen=True)
class Reading:
    """What is read of a run in place of its metric, by the search and by the endpoint alike.

    Attributes:
        metric: its name.
        unit: after a number.
        higher_is_better: its direction.
        read: gives it, from the steps that a run may take, its record and one of its evaluations.
        difference_unit: of differences.
    """

    metric: str
    unit: str
    higher_is_better: bool
    read: Callable[[int, Record, Evaluation], float]
    difference_unit: str = ""


def _steps_taken(steps: int, record: Record, evaluation: Evaluation) -> float:
    # Of those that did not come there, the search prefers the closer one.
    return float(record.met) if record.met is not None else 2.0 * steps + evaluation.loss


def _metric_there(_: int, record: Record, evaluation: Evaluation) -> float:
    return evaluation.metric if record.met is not None else evaluation.metric - NOT_THERE


STEPS_TO_LOSS = Reading("steps to the training loss", "", higher_is_better=False, read=_steps_taken)
"""The step at which the training loss first met the task's `until_loss`; twice a run's steps if none did."""


NOT_THERE = 100.0
"""Points that a run is behind all others which did not come to the training loss it was to be compared at."""

ACCURACY_AT_LOSS = Reading(
    "accuracy", "%", higher_is_better=True, read=_metric_there, difference_unit="points"
)
"""The accuracy when the training loss first met the task's `until_loss`; far behind if it never did."""


@dataclass(frozen=True)
class Experiment:
    """Runs of several arms on one workload.

    Attributes:
        name: of its file of records.
        make: gives the workload, whose data it loads.
        arms: what is compared, all different; the learning rate is the only axis of each.
        plan: names the runs; by default each arm's rate is tuned and the best is measured on fresh seeds,
            as `thalweg compare` does.
        trials: rates that each arm is tried at.
        seeds: fresh seeds.
        reading: what is read of a run in place of the workload's metric.
        why: whether to measure sharpness and noise beside the final runs; see `docs/why.md`.
        quick: whether this is the short form, which shows that the machinery works and nothing else.
    """

    name: str
    make: Callable[[], Workload]
    arms: tuple[Space, ...]
    plan: Plan = protocol.due
    trials: int = TRIALS
    seeds: int = SEEDS
    reading: Reading | None = None
    why: bool = False
    quick: bool = False

    def workload(self) -> Workload:
        """The workload with its data."""
        made = self.make()
        return shortened(made) if self.quick else made

    def study(self, workload: Workload, records: Sequence[Record] = ()) -> Study:
        """The experiment as processes run it."""
        settings = Settings(self.trials, self.seeds, margin_of(workload), SEED)
        return Study(workload, settings, self.arms, records)

    def read(self, study: Study) -> Study:
        """The same study as it is judged: with what is read of each run for its metric."""
        if self.reading is None:
            return study
        steps, reading = study.workload.steps, self.reading
        workload: Any = Read(study.workload, reading)
        return replace(
            study,
            workload=workload,
            settings=replace(study.settings, margin=margin_of(workload)),
            records=[_read(steps, reading, record) for record in study.records],
        )

    def due(self, study: Study) -> list[Trial]:
        """All runs that the records of `study`, as they were made, allow."""
        return self.plan(self.read(study))

    def shortened(self) -> "Experiment":
        """The same with two seeds, two rates, a few steps, and the first arms of a grid."""
        arms = self.arms[:QUICK_ARMS] if self.plan is extremes else self.arms
        return replace(self, arms=arms, trials=QUICK_TRIALS, seeds=QUICK_SEEDS, quick=True)


class Read:
    """A workload whose metric is another; for all else it is the one it stands for."""

    margin = None
    target = None

    def __init__(self, workload: Workload, reading: Reading) -> None:
        self._workload = workload
        self.metric, self.unit, self.higher_is_better = reading.metric, reading.unit, reading.higher_is_better
        self.difference_unit = reading.difference_unit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._workload, name)


def _read(steps: int, reading: Reading, record: Record) -> Record:
    if record.validation is None:
        return record
    validation, test = record.validation, record.test

    def of(evaluation: Evaluation) -> Evaluation:
        return evaluation._replace(metric=reading.read(steps, record, evaluation))

    return replace(record, curve=(), validation=of(validation), test=None if test is None else of(test))


def shortened(workload: Workload) -> Workload:
    """A copy of a workload that takes a few steps only."""
    short = copy.copy(workload)
    short.steps = min(workload.steps, QUICK_STEPS)
    short.evaluate_every = short.steps
    if hasattr(short, "settling"):
        vars(short)["settling"] = min(short.settling, QUICK_STEPS)
    return short
