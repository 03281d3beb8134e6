"""What both questions are asked with: a task and one optimizer."""

from collections.abc import Mapping
from pathlib import Path

from thalweg.lab import spaces
from thalweg.lab.comparing import choosing, spending
from thalweg.lab.comparing.choosing import Task
from thalweg.lab.spaces import Space
from thalweg.lab.workload import Workload, tasks

Called = Mapping[str, str]
"""What arguments are called in errors, where that is not their name in Python."""


def find_task(task: Workload | str, data: Path | None = None) -> Task:
    """The task that is meant: an object, the name of a built-in one, or ``my_task.py:name``.

    Raises:
        ValueError: there is none, or it is not what a task must be.
    """
    return choosing.find(task, data) if isinstance(task, str) else Task(tasks.check(task))


def find_space(optimizer: str | Space, workload: Workload, called: Called) -> Space:
    """The space of an optimizer: a name, a dotted path, or a space.

    Raises:
        ValueError: there is none.
    """
    try:
        return optimizer if isinstance(optimizer, Space) else spaces.find(optimizer.strip(), workload.spaces)
    except ValueError as error:
        raise ValueError(f"{called.get('optimizer', 'optimizer')}: {error}") from None


def check_seed(seed: int, called: Called) -> None:
    """Sees whether all that is random can come from it.

    Raises:
        ValueError: it cannot.
    """
    if not 0 <= seed <= spending.MOST_SEED:
        name = called.get("seed", "seed")
        raise ValueError(f"{name} must be a whole number from 0 to {spending.MOST_SEED}, not {seed}")
