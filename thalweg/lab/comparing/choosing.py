"""What is trained and what trains it, found by what a user names."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from thalweg.lab import spaces as spaces_
from thalweg.lab.spaces import Recipe, Space
from thalweg.lab.workload import Workload, shipped, tasks
from thalweg.lab.workload.contract import option

OPTIMIZERS = ("sgd", "rmsprop", "adamw")
"""What is compared unless something else is asked for."""


@dataclass(frozen=True)
class Task:
    """A workload and where it comes from.

    Attributes:
        workload: what is trained.
        reference: how it is found again; empty for an object that was passed from Python.
        file: the user's own file that it lies in, if it does.
        data: where its data lie, if that was said.
    """

    workload: Workload
    reference: str = ""
    file: Path | None = None
    data: Path | None = None


def find(reference: str, data: Path | None = None) -> Task:
    """The task of that name, or in that file.

    Raises:
        ValueError: there is none, or it is not what a task must be.
    """
    if tasks.is_file(reference):
        if data is not None:
            raise ValueError(f"--data is for the built-in workloads; {reference!r} finds its own data")
        path, name = tasks.parse(reference)
        file = path.absolute()
        whole = f"{file}:{name}" if name else str(file)
        return Task(tasks.load(whole), whole, file)
    return Task(shipped.find(reference, data), reference, data=data)


def choose(
    names: Sequence[str | Space | Recipe],
    workload: Workload,
    argument: str = "optimizers",
    recipes: Sequence[str] = (),
) -> list[Space]:
    """The spaces of these recipes of the task and of these optimizers, each once, in that order.

    Raises:
        ValueError: one is not known, or there are fewer than two.
    """
    try:
        named = spaces_.resolve(
            [name.strip() for name in recipes], option(workload, "recipes"), workload.spaces
        )
    except ValueError as error:
        raise ValueError(f"{argument.replace('optimizers', 'recipes')}: {error}") from None
    try:
        found = [*named, *(_space(one, workload) for one in names)]
    except ValueError as error:
        raise ValueError(f"{argument}: {error}") from None
    unique = list({space.name: space for space in found}.values())
    if len(unique) < 2:
        names = ",".join(space.name for space in found)
        raise ValueError(f"{argument}: a comparison takes at least two, not {names!r}")
    return unique


def _space(one: str | Space | Recipe, workload: Workload) -> Space:
    if isinstance(one, Recipe):
        return one.space(workload.spaces)
    return one if isinstance(one, Space) else spaces_.find(one.strip(), workload.spaces)
