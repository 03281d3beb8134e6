"""Makes the missing runs of an experiment, in the lab's processes and storage, and keeps their records."""

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from thalweg.lab.comparing.identity import changed, identify
from thalweg.lab.lesson import keeping
from thalweg.lab.lesson.experiment import Experiment
from thalweg.lab.lesson.keeping import Kept
from thalweg.lab.running import execution
from thalweg.lab.running.leave import credits
from thalweg.lab.running.pool import Pool
from thalweg.lab.running.store import Store
from thalweg.lab.showing.results import environment
from thalweg.lab.study.record import Record, Trial
from thalweg.lab.study.study import Study

Say = Callable[[str], Any]

STORAGE = "study.db"
"""The storage below the lesson's folder in which runs are kept until their file is written."""


class OutOfTimeError(Exception):
    """The budget is spent; what was made is kept."""


class _Knowing(Store):
    """A storage that knows the records of a file too."""

    known: dict[str, Record]

    def records(self) -> dict[str, Record]:
        return {**getattr(self, "known", {}), **super().records()}


def missing(experiment: Experiment, kept: Kept | None) -> list[Trial] | None:
    """The runs that are due next by what is kept, without loading any data; None if nothing is kept."""
    if kept is None:
        return None
    stands_in: Any = keeping.Described(kept.workload)
    held = [record for record in kept.records if not record.lost]
    done = {record.trial.key for record in held}
    return [trial for trial in experiment.due(experiment.study(stands_in, held)) if trial.key not in done]


def make(
    experiment: Experiment,
    folder: Path,
    pool: Pool,
    *,
    storage: str | None = None,
    deadline: float = float("inf"),
    fresh: bool = False,
    say: Say,
    watch: Callable[[Study, list[Trial]], Any] = lambda study, running: None,
) -> Study:
    """Makes what is missing of an experiment and gives its study, as it is judged.

    The file is written when all is made, and also when the budget ends or Ctrl-C comes.

    Args:
        experiment: what is to be run.
        folder: of the lesson.
        pool: the processes that train.
        storage: an address that several machines share; by default a file in the folder.
        deadline: of `time.monotonic`, after which no run begins.
        fresh: whether to forget what there is.
        say: called with lines for the user.
        watch: called with the study so far and the trials under way.

    Raises:
        OutOfTimeError: the deadline has passed; what was made is kept.
        KeyboardInterrupt: likewise.
        ValueError: the data of the workload cannot be had.
        thalweg.lab.TrialError: the workload raised an exception.
        thalweg.lab.StoreError: the storage failed.
    """
    kept = None if fresh else keeping.read(folder, experiment)
    if kept is not None and missing(experiment, kept) == []:
        return keeping.study_of(experiment, kept)
    workload = experiment.workload()
    identity = identify(workload, None, experiment.arms, [])
    if kept is not None and (what := changed(kept.depends, identity.parts)):
        say(f"{experiment.name}: earlier runs were made before a change of {what}; --fresh forgets them")
    folder.mkdir(parents=True, exist_ok=True)
    store = _Knowing(
        storage or str(folder / STORAGE),
        f"lesson-{experiment.name}{'-quick' if experiment.quick else ''}",
        higher_is_better=workload.higher_is_better,
        fresh=fresh,
    )
    held = [] if kept is None else [record for record in kept.records if not record.lost]
    store.known = {record.trial.key: record for record in held}
    pool.load(workload, None, experiment.arms)
    pool.credits = {} if experiment.why else None
    begun = experiment.study(workload)

    def watched(study: Study, running: list[Trial]) -> None:
        pool.credits = credits(study, pool.workers) if experiment.why else None
        watch(study, running)
        if running and time.monotonic() > deadline:
            raise OutOfTimeError

    def keep() -> Study:
        study, _ = execution.gather(begun, store, experiment.due)
        if len(study.records) > len(held):
            sittings = [*(kept.sittings if kept else ()), _sitting(len(study.records) - len(held))]
            depends = identity.parts if kept is None else kept.depends
            keeping.write(
                folder, experiment, Kept(keeping.described(workload), depends, sittings, study.records)
            )
        return study

    try:
        execution.execute(begun, store, pool, plan=experiment.due, watch=watched)
    finally:
        try:
            made = keep()
        finally:
            store.close()
    return experiment.read(made)


def _sitting(runs: int) -> dict[str, str]:
    when = datetime.now().astimezone().isoformat(timespec="minutes")
    return {"when": when, "runs": str(runs), **environment()}


def seconds(records: Sequence[Record]) -> float:
    """What runs took in all, one after the other."""
    return sum(record.timing.total for record in records if record.timing is not None)
