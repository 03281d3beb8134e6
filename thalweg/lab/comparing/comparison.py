"""A whole comparison, from what was asked for to the result, for the command line and for Python."""

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from thalweg.lab.comparing.beginning import begin
from thalweg.lab.comparing.carrying import Watch, carry_out
from thalweg.lab.comparing.choosing import Task
from thalweg.lab.comparing.spending import Options, spend
from thalweg.lab.judging import verdict
from thalweg.lab.judging.statistics import fewest_seeds
from thalweg.lab.running.leave import credits
from thalweg.lab.running.pool import Pool
from thalweg.lab.showing import results
from thalweg.lab.showing.result import Result
from thalweg.lab.showing.results import Provenance
from thalweg.lab.spaces import Space
from thalweg.lab.study.record import Trial
from thalweg.lab.study.study import Settings, Study, margin_of


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended the comparison; `result` is what there is."""

    def __init__(self, result: Result) -> None:
        super().__init__()
        self.result = result


def compare(
    task: Task,
    spaces: Sequence[Space],
    options: Options,
    pool: Pool,
    *,
    say: Callable[[str], Any],
    watch: Watch,
) -> Result:
    """Runs a comparison, or what is left of one that was begun before.

    Args:
        task: what is trained.
        spaces: the optimizers, all different.
        options: how much is spent.
        pool: the processes that train.
        say: called with lines for the user, such as what a budget buys.
        watch: called with the study so far and the trials under way.

    Raises:
        thalweg.lab.workload.tasks.TaskError: a user's own workload cannot be trained; nothing was written.
        Interrupted: Ctrl-C; it holds the result so far.
        thalweg.lab.TrialError: the workload raised an exception.
        thalweg.lab.StoreError: the storage failed.
    """
    started, clock = datetime.now().astimezone(), time.monotonic()
    workload = task.workload
    begun = begin(task, spaces, options, pool, say=say)
    spent = begun.store.agreed() or begun.store.agree(
        {**spend(task, spaces, options, pool), "early_stop": options.early_stop}
    )
    if spent["bought"]:
        say(spent["bought"])
    fewest = fewest_seeds(len(spaces))
    if spent["seeds"] < fewest:
        say(f"{len(spaces)} optimizers need {fewest} seeds for a verdict, not {spent['seeds']}")
    margin = options.margin or margin_of(workload)
    # A study that was begun without looks, or without ending trials early, goes on without.
    settings = Settings(
        spent["trials"],
        spent["seeds"],
        margin,
        options.seed,
        looks=tuple(spent.get("looks", ())),
        early_stop=spent.get("early_stop", False),
    )
    pool.early_stop = settings.early_stop
    study = Study(workload, settings, tuple(spaces))

    def watched(study: Study, running: list[Trial]) -> None:
        pool.credits = credits(study, pool.workers) if options.why else None
        watch(study, running)

    pool.credits = {} if options.why else None
    study, warnings, finished = carry_out(
        study, begun, options, pool, say=say, watch=watched, planned=spent.get("seconds", 0.0)
    )
    provenance = Provenance(
        started,
        time.monotonic() - clock,
        pool.workers,
        results.environment(),
        command=options.command,
        task=task.reference,
        data=None if task.data is None else str(task.data),
        bought=spent["bought"],
        found=begun.found,
        warnings=warnings,
    )
    result = Result(study, verdict.judge(study), provenance)
    if not finished:
        raise Interrupted(result)
    return result
