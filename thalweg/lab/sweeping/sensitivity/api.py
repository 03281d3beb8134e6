"""`thalweg.lab.sensitivity`: how much hyperparameters matter, from Python and behind the command."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from thalweg.lab.comparing import beginning, carrying, spending
from thalweg.lab.comparing.beginning import Begun
from thalweg.lab.comparing.budget import seconds
from thalweg.lab.comparing.carrying import Watch
from thalweg.lab.comparing.choosing import Task
from thalweg.lab.comparing.spending import Options
from thalweg.lab.running.connecting import IN_MEMORY
from thalweg.lab.running.pool import Pool
from thalweg.lab.showing import console, results
from thalweg.lab.showing.results import Provenance
from thalweg.lab.spaces import Space
from thalweg.lab.study import grid
from thalweg.lab.study.study import Settings, Study, margin_of
from thalweg.lab.sweeping.asked import Called, find_space, find_task
from thalweg.lab.sweeping.sensitivity import budget as budgets
from thalweg.lab.sweeping.sensitivity.answer import Answer
from thalweg.lab.sweeping.sensitivity.budget import FINEST, Asked
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
    points: int | None = None,
    trials: int | None = None,
    seeds: int | None = None,
    budget: str | float | None = None,
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
        points: how many of each, where none were given; 4 by default.
        trials: learning rates that are tried at each point; 8 by default.
        seeds: fresh seeds on which the best of them is measured; 6 by default.
        budget: a duration such as ``"10m"``, or seconds, in place of `points`, `trials` and `seeds`.
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
        budget=None if budget is None else seconds(budget, "budget"),
        margin=spending.parse_margin("margin", margin),
        seed=seed,
        storage=IN_MEMORY if storage is None else str(storage),
        limit=limit,
        command="thalweg.lab.sensitivity(...)",
    )
    check(options, points)
    found = find_task(task)
    space = find_space(optimizer, found.workload, {})
    names = [of] if isinstance(of, str) else list(of)
    asked = ask_of(space, names, values or {}, points, {})
    with (
        Pool(spending.at_least_one("workers", workers)) as pool,
        console.progress(shown=progress, left=grid.left) as screen,
    ):
        return run(found, space, asked, options, pool, say=screen.say, watch=screen.watch)


def check(options: Options, points: int | None, prefix: str = "") -> None:
    """Sees whether options agree with each other.

    Raises:
        ValueError: they do not; the message names them, each with `prefix` before it.
    """
    spending.check(options, prefix)
    if options.budget is not None and points is not None:
        raise ValueError(f"{prefix}points cannot be given with {prefix}budget, which chooses it")


def ask_of(
    space: Space,
    names: Sequence[str],
    values: Mapping[str, Sequence[Any]],
    points: int | None,
    called: Called,
) -> Asked:
    """The hyperparameters with their values: as many as is said, else as many as a budget will buy.

    Raises:
        ValueError: that cannot be asked; the message names the argument.
    """
    asked = partial(ask, space, names, values, called=called)
    factors = asked(POINTS if points is None else points)
    return asked if points is None else lambda _: factors


def run(
    task: Task,
    space: Space,
    asked: Asked,
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
        asked: the hyperparameters with their values.
        options: how much is spent.
        pool: the processes that train.
        say: called with lines for the user.
        watch: called with the study so far and the trials under way.
    """
    started, clock = datetime.now().astimezone(), time.monotonic()
    if options.budget is None:
        options = replace(options, trials=options.trials or TRIALS, seeds=options.seeds or SEEDS)
    begun, spent = _begun(task, space, asked, options, pool, say)
    factors = asked(spent["points"])
    margin = options.margin or margin_of(task.workload)
    study, warnings, finished = carrying.carry_out(
        Study(
            task.workload,
            Settings(spent["trials"], spent["seeds"], margin, options.seed),
            grid.arms(space, factors),
        ),
        begun,
        options,
        pool,
        say=say,
        watch=watch,
        plan=grid.due,
        planned=spent["seconds"],
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
    return Answer(study, space, factors, provenance, finished)


def _begun(
    task: Task, space: Space, asked: Asked, options: Options, pool: Pool, say: Callable[[str], Any]
) -> tuple[Begun, dict[str, Any]]:
    """The study, begun now or before, and what is spent on it: what was said, or what the budget has bought.

    With a budget, the study is that of the finest grid which any budget buys: others lie within it, so that
    all their points are tried out and known to the processes before it is measured what a run takes.
    """
    finest = POINTS if options.budget is None else FINEST[len(asked(POINTS))]
    arms = grid.arms(space, asked(finest))
    begun = beginning.begin(task, arms, options, pool, say=say, kind="sensitivity")
    if options.budget is None:
        said = {"points": POINTS, "trials": options.trials, "seeds": options.seeds}
        return begun, {**said, "bought": "", "seconds": 0.0}
    spent = begun.store.agreed()
    if spent is None:
        [cost] = spending.costs(task, arms[:1], options, pool)
        spent = begun.store.agree(budgets.buy(space, asked, cost, options.budget, pool.workers))
    say(spent["bought"])
    return begun, spent
