"""`thalweg.lab.sensitivity`: how much hyperparameters matter, from Python and behind the command."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from thalweg.lab.comparing import comparison
from thalweg.lab.comparing.comparison import Options, Task, Watch
from thalweg.lab.running.pool import Pool
from thalweg.lab.running.store import IN_MEMORY
from thalweg.lab.showing import console, results
from thalweg.lab.showing.results import Provenance
from thalweg.lab.spaces import Space
from thalweg.lab.study import grid
from thalweg.lab.study.grid import Factor
from thalweg.lab.study.study import Settings, Study, margin_of
from thalweg.lab.sweeping.asked import find_space, find_task
from thalweg.lab.sweeping.sensitivity.answer import Answer
from thalweg.lab.sweeping.sensitivity.question import ask
from thalweg.lab.workload import Workload

TRIALS, SEEDS = 8, 6
"""Learning rates tried at each point, and fresh seeds, unless asked otherwise."""

POINTS = 4
"""Values of each hyperparameter, likewise."""


def sensitivity(
    task: Workload | str,
    of: str | Sequence[str],
    optimizer: str | Space = "adamw",
    *,
    values: Mapping[str, Sequence[Any]] | None = None,
    points: int = POINTS,
    trials: int = TRIALS,
    seeds: int = SEEDS,
    margin: float | str | None = None,
    seed: int = 0,
    workers: int | None = None,
    storage: str | Path | None = None,
    limit: float | None = None,
    progress: bool = True,
) -> Answer:
    """Measures validation over one or two hyperparameters, the learning rate tuned anew at each point.

    Args:
        task: a `thalweg.lab.Workload`, the name of a built-in one, or ``my_task.py:name``.
        of: one or two arguments of the optimizer, such as ``"beta2"`` or ``["beta2", "eps"]``.
        optimizer: a name, a dotted path, or a space of your own.
        values: of each, by name; by default spread over the range in which `compare` searches it.
        points: how many of each, where none were given.
        trials: learning rates that are tried at each point.
        seeds: fresh seeds on which the best of them is measured.
        margin: the smallest difference worth having, in the metric's unit, or relative as ``"2%"``; by
            default the task's.
        seed: fixes all that is random.
        workers: runs side by side, of one thread for each of their processes; by default as many as there are
            cores for.
        storage: a file or a database address where the runs are kept, so that the same call goes on from
            what there is; by default they are kept in memory only.
        limit: seconds after which a run is ended as hung; by default ten times the slowest so far.
        progress: whether to show what is going on, on stderr.

    Returns:
        The answer: printed a table, in a notebook a page. After Ctrl-C it holds what there is.

    Raises:
        ValueError: an argument cannot be met; the message names it.
        thalweg.lab.TrialError: the task raised an exception.
    """
    options = Options(
        trials=trials,
        seeds=seeds,
        margin=comparison.parse_margin("margin", margin),
        seed=seed,
        storage=IN_MEMORY if storage is None else str(storage),
        limit=limit,
        command="thalweg.lab.sensitivity(...)",
    )
    comparison.check(options)
    found = find_task(task)
    space = find_space(optimizer, found.workload, {})
    factors = ask(space, [of] if isinstance(of, str) else list(of), values or {}, points, {})
    with (
        Pool(comparison.at_least_one("workers", workers)) as pool,
        console.progress(shown=progress, left=grid.left) as screen,
    ):
        return run(found, space, factors, options, pool, say=screen.say, watch=screen.watch)


def run(
    task: Task,
    space: Space,
    factors: Sequence[Factor],
    options: Options,
    pool: Pool,
    *,
    say: Callable[[str], Any],
    watch: Watch,
) -> Answer:
    """The same, once all arguments have been checked; goes on from runs that were made before.

    Args:
        task: what is trained.
        space: of the optimizer.
        factors: the hyperparameters with their values.
        options: how much is spent; both trials and seeds are said.
        pool: the processes that train.
        say: called with lines for the user.
        watch: called with the study so far and the trials under way.
    """
    started, clock = datetime.now().astimezone(), time.monotonic()
    arms = grid.arms(space, factors)
    settings = Settings(
        options.trials or TRIALS,
        options.seeds or SEEDS,
        options.margin or margin_of(task.workload),
        options.seed,
    )
    begun = comparison.begin(task, arms, options, pool, say=say, kind="sensitivity")
    study, warnings, finished = comparison.carry_out(
        Study(task.workload, settings, arms), begun, options, pool, say=say, watch=watch, plan=grid.due
    )
    provenance = Provenance(
        started,
        time.monotonic() - clock,
        pool.workers,
        results.environment(),
        command=options.command,
        task=task.reference,
        data=None if task.data is None else str(task.data),
        found=begun.found,
        warnings=warnings,
    )
    return Answer(study, space, factors, provenance, finished)
