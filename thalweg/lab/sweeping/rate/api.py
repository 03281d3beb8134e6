"""`thalweg.lab.rate`: a range test of a task, from Python and behind the command."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from thalweg.lab.comparing.choosing import Task
from thalweg.lab.running.rehearsal import rehearse
from thalweg.lab.running.serving import device_for
from thalweg.lab.showing import console, results
from thalweg.lab.spaces import Space, code
from thalweg.lab.sweeping.asked import Called, check_seed, find_space, find_task
from thalweg.lab.sweeping.rate.curve import RULE, SIGMAS, WIDTH, WINDOW, Sweep
from thalweg.lab.sweeping.rate.found import Found
from thalweg.lab.sweeping.rate.found import rate as written
from thalweg.lab.sweeping.rate.own import check
from thalweg.lab.sweeping.rate.runs import at_rate, searched, sweep
from thalweg.lab.workload import Workload, tasks
from thalweg.lab.workload.contract import option
from thalweg.lab.workload.errors import TrialError

SEEDS = 6

MOST_STEPS = 400
"""Steps of a sweep by default, where a run of the task has as many."""

BELOW, ABOVE = 0.1, 100.0
"""The range by default, beyond both ends of the one that `thalweg compare` searches: down to where nothing is
learned, and up to where training breaks."""


def rate(
    task: Workload | str,
    optimizer: str | Space = "adamw",
    *,
    seeds: int = SEEDS,
    low: float | None = None,
    high: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Found:
    """Tests which learning rate an optimizer takes on a task: a climb of the rate for each seed.

    Args:
        task: a `thalweg.lab.Workload`, the name of a built-in one, or ``my_task.py:name``.
        optimizer: a name, a dotted path, or a space of your own.
        seeds: climbs, each with weights and batches of its own; intervals take two.
        low: the first rate; by default a tenth of the lowest that `compare` would try.
        high: the last; by default a hundred times the highest.
        steps: of one climb; by default those of a run of the task, 400 at most.
        seed: fixes all that is random.
        progress: whether to show each climb as it ends, on stderr.

    Returns:
        What was found: printed a table, in a notebook a page. After Ctrl-C it holds the climbs there are.

    Raises:
        ValueError: an argument cannot be met; the message names it.
        thalweg.lab.TrialError: the task raised an exception.
    """
    found = find_task(task)
    with console.progress(shown=progress) as screen:
        return run(found, optimizer, seeds, low, high, steps, seed, say=screen.say)


def run(
    task: Task,
    optimizer: str | Space,
    seeds: int,
    low: float | None,
    high: float | None,
    steps: int | None,
    seed: int,
    *,
    say: Callable[[str], Any],
    called: Called | None = None,
    command: str = "thalweg.lab.rate(...)",
) -> Found:
    """The same for a task that was found; see `rate`.

    Args:
        task: what is trained.
        optimizer: as in `rate`, like those that follow.
        seeds: likewise.
        low: likewise.
        high: likewise.
        steps: likewise.
        seed: likewise.
        say: called with a line for each climb.
        called: the arguments' names in errors, where they are others.
        command: what was typed.
    """
    called = called or {}
    space = find_space(optimizer, task.workload, called)
    low, high = _range(space, low, high, called)
    steps = min(MOST_STEPS, task.workload.steps) if steps is None else steps
    check(low, high, steps, seeds, "seeds", dict(called))
    check_seed(seed, called)
    _check_workload(task.workload, steps, called)
    with tasks.alone(task.file):
        if task.file is not None or not task.reference:
            tasks.smoke(task.workload, task.file)
        rehearse(task.workload, [space], task.file)
    empty = Found(
        [],
        low,
        high,
        steps,
        space.title,
        task.workload.name,
        asked=seeds,
        facts=_facts(task, space, seed),
        command=command,
    )
    numbers = [int(number) for number in np.random.SeedSequence(seed).generate_state(seeds)]
    return _swept(empty, task, space, numbers, say)


def _swept(found: Found, task: Task, space: Space, seeds: Sequence[int], say: Callable[[str], Any]) -> Found:
    """All climbs, or those before Ctrl-C, if there is one."""
    sweeps = list[Sweep]()
    try:
        for number in seeds:
            with tasks.alone(task.file):
                made = sweep(task.workload, space, found.low, found.high, found.steps, number, device_for(0))
            sweeps.append(made)
            say(_line(sweeps, len(seeds)))
    except KeyboardInterrupt:
        if not sweeps:
            raise
    except (Exception, SystemExit) as error:
        raise TrialError(tasks.told(error, task.file)) from error
    return replace(found, sweeps=sweeps)


def _line(sweeps: Sequence[Sweep], seeds: int) -> str:
    last = sweeps[-1]
    said = last.why if last.suggested is None else f"suggests {written(last.suggested)}"
    broken = "" if last.undone is None else f", undone at {written(last.undone)}"
    return f"seed {len(sweeps)} of {seeds}: {said}{broken}"


def _range(space: Space, low: float | None, high: float | None, called: Called) -> tuple[float, float]:
    ends = searched(space)
    if ends is None:
        raise ValueError(
            f"{called.get('optimizer', 'optimizer')}: {space.name} takes no lr, so there is no rate to test"
        )
    return BELOW * ends[0] if low is None else low, ABOVE * ends[1] if high is None else high


def _check_workload(workload: Workload, steps: int, called: Called) -> None:
    if option(workload, "whole_run") is not None:
        raise ValueError(
            f"task {workload.name!r} is a function that trains by itself, so nobody else can set its rate "
            "step by step; thalweg.lab.find_rate inside it can"
        )
    if (count := option(workload, "processes")) > 1:
        raise ValueError(
            f"a run of task {workload.name!r} has {count} processes, and a range test one: set processes = 1"
        )
    if steps > workload.steps:
        raise ValueError(
            f"{called.get('steps', 'steps')} must be at most {workload.steps}, as many as a run of the task "
            f"{workload.name!r} has, not {steps}"
        )


def _facts(task: Task, space: Space, seed: int) -> dict[str, str]:
    workload = task.workload
    arguments = {key: value for key, value in at_rate(space, 1.0).items() if key != "lr"}
    return {
        "Task": f"{workload.name}: {workload.title}" if workload.title else workload.name,
        **workload.facts(),
        "Optimizer": code(space.optimizer, arguments),
        "Climb": "the rate is multiplied by the same factor after each step, in place of the task's schedule"
        "; groups with rates of their own climb in proportion",
        "Smoothing": f"lines fitted around each rate, weighted by a Gaussian of {WIDTH:g} decades",
        "Undone": f"where the mean of the last {100 * WINDOW:g} % of the steps lies above the loss before "
        f"training by {SIGMAS:g} standard deviations between batches, or a loss is not finite",
        "Suggested": f"{RULE}; the best rate usually lies within a factor of two of the largest that does "
        "not diverge (Bengio 2012, arXiv 1206.5533)",
        "Intervals": "Student's t on the logarithms of the rates, of four seeds and more widened for "
        "skewness; none where a seed has no such rate",
        "Source": "the range test of Smith 2015, arXiv 1506.01186, section 3.3",
        "Root seed": f"{seed}; all seeds follow from it",
        **{key[:1].upper() + key[1:]: text for key, text in results.environment().items()},
    }
