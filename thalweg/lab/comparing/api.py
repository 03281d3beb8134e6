"""`thalweg.lab.compare`: a comparison from Python or a notebook."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from thalweg.lab.comparing import choosing, comparison, spending
from thalweg.lab.comparing.budget import seconds
from thalweg.lab.comparing.choosing import Task
from thalweg.lab.comparing.spending import Options
from thalweg.lab.running.connecting import IN_MEMORY
from thalweg.lab.running.pool import Pool
from thalweg.lab.showing import console
from thalweg.lab.showing.result import Result
from thalweg.lab.spaces import Recipe, Space
from thalweg.lab.workload import Workload, tasks

T = TypeVar("T")


def compare(
    task: Workload | str,
    optimizers: str | Sequence[str | Space | Recipe] | None = None,
    *,
    recipes: str | Sequence[str] = (),
    trials: int | None = None,
    seeds: int | None = None,
    budget: str | float | None = None,
    margin: float | str | None = None,
    seed: int = 0,
    workers: int | None = None,
    storage: str | Path | None = None,
    limit: float | None = None,
    checkpoints: str | Path | None = None,
    why: bool = True,
    early_stop: bool = True,
    progress: bool = True,
) -> Result:
    """Tunes optimizers on a task and measures them, under the protocol of ``docs/protocol.md``.

    Args:
        task: a `thalweg.lab.Workload`, the name of a built-in one, or ``my_task.py:name``.
        optimizers: at least two: names, dotted paths, or spaces or recipes of your own; by default SGD,
            RMSprop and AdamW, where no recipes are named. Names may stand in one text, as in ``"sgd,adamw"``.
        recipes: of the task, by name, likewise; ``"all"`` for every one.
        trials: configurations tried for each optimizer; 16 by default.
        seeds: fresh paired seeds on which each is measured at most; 24 by default. It is looked after 6, 10
            and 16 whether they tell.
        budget: a duration such as ``"10m"``, or seconds, in place of `trials` and `seeds`.
        margin: the smallest difference worth having, in the metric's unit, or relative as ``"2%"``;
            by default the task's.
        seed: fixes all that is random.
        workers: runs side by side, of one thread for each of their processes; by default as many as there are
            cores for.
        storage: a file or a database address where the study is kept, so that the same call goes on
            from what there is; by default it is kept in memory only.
        limit: seconds after which a run is ended as hung; by default ten times the slowest so far.
        checkpoints: a folder for runs under way, so that one that is cut off goes on in a later call; by
            default they are kept as long as this call takes.
        why: whether to measure, beside the final runs and in at most a fifth of their time, why they end
            where they end (``docs/why.md``).
        early_stop: whether trials that training only makes worse are ended early.
        progress: whether to show what is going on, on stderr.

    Returns:
        The result: verdict, tables, pictures; a notebook shows it as a report. After Ctrl-C it holds
        what there is.

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
        early_stop=early_stop,
        checkpoints=None if checkpoints is None else Path(checkpoints),
        why=why,
        command="thalweg.lab.compare(...)",
    )
    spending.check(options)
    found = choosing.find(task) if isinstance(task, str) else Task(tasks.check(task))
    if optimizers is None:
        optimizers = () if recipes else choosing.OPTIMIZERS
    chosen = choosing.choose(_names(optimizers), found.workload, recipes=_names(recipes))
    with (
        Pool(spending.at_least_one("workers", workers)) as pool,
        console.progress(shown=progress) as screen,
    ):
        try:
            return comparison.compare(found, chosen, options, pool, say=screen.say, watch=screen.watch)
        except comparison.Interrupted as interrupted:
            return interrupted.result


def _names(given: str | Sequence[T]) -> Sequence[str | T]:
    """Names that may stand in one text, as on the command line."""
    return given.split(",") if isinstance(given, str) else given
