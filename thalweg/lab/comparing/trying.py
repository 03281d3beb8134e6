"""The task and every optimizer tried, before anything is written."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from thalweg.lab.comparing import group, optimizers
from thalweg.lab.comparing.choosing import Task
from thalweg.lab.comparing.spending import TRIALS, Options
from thalweg.lab.running.limits import within
from thalweg.lab.running.pool import Pool
from thalweg.lab.running.rehearsal import rehearse
from thalweg.lab.spaces import Space
from thalweg.lab.workload import tasks
from thalweg.lab.workload.contract import option
from thalweg.lab.workload.errors import Doubt


def tried(task: Task, spaces: Sequence[Space], options: Options, pool: Pool) -> tuple[Doubt, ...]:
    """Tries the task and every optimizer, and gives the task to the processes, before anything is written."""
    try:
        # As it is before it is tried: what that leaves on the task reaches no run.
        pool.load(task.workload, task.file, spaces)
    except Exception:
        # Trying it tells in clear words what cannot be sent.
        tasks.smoke(task.workload, task.file)
        raise
    if option(task.workload, "processes") > 1:
        with within(options.limit and options.limit * (1 + len(spaces)), "trying the task"):
            tried: tuple[Doubt, ...] = pool.call(group.try_out, options.trials or TRIALS, options.seed)
        return tried
    found: tuple[Doubt, ...] = ()
    with _prints_kept(getattr(pool, "logs", None)), tasks.alone(task.file):
        if task.file is not None or not task.reference:
            with within(options.limit, "trying the task"):
                found = tasks.smoke(task.workload, task.file)
        with within(options.limit and options.limit * len(spaces), "trying the optimizers"):
            rehearse(task.workload, spaces, task.file)
            optimizers.try_all(task.workload, spaces, options.trials or TRIALS, options.seed)
    return found


@contextmanager
def _prints_kept(logs: Path | None) -> Iterator[None]:
    """What the task prints while it is tried goes where its runs' prints go."""
    if logs is None:
        yield
        return
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            yield
    finally:
        if printed.getvalue():
            logs.mkdir(parents=True, exist_ok=True)
            (logs / "trying.log").write_text(printed.getvalue(), encoding="utf-8")
