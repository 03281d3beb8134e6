"""What is done with a task before its first run, by all processes of a run where it has several."""

from collections.abc import Sequence
from pathlib import Path

from thalweg.lab.comparing import budget, optimizers
from thalweg.lab.running.rehearsal import rehearse
from thalweg.lab.spaces import Space
from thalweg.lab.workload import Workload, tasks
from thalweg.lab.workload.errors import Doubt


def try_out(
    workload: Workload, spaces: Sequence[Space], file: Path | None, trials: int, seed: int
) -> tuple[Doubt, ...]:
    """Tries the task and every optimizer.

    Raises:
        thalweg.lab.workload.tasks.TaskError: training could not work.
    """
    found = tasks.smoke(workload, file)
    rehearse(workload, spaces, file)
    try:
        optimizers.try_all(workload, spaces, trials, seed)
    except ValueError as error:
        raise tasks.TaskError(str(error)) from error
    return found


def costs(
    workload: Workload, spaces: Sequence[Space], _file: Path | None, names: Sequence[str]
) -> list[float]:
    """The seconds of a whole run with each of the optimizers that are named, in their order among all."""
    return [budget.cost(workload, space) for space in spaces if space.name in names]
