"""One training run."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch

from thalweg.lab.running import ranks
from thalweg.lab.running.checkpoints import Keeper
from thalweg.lab.running.course import REPEATED, Course, Way
from thalweg.lab.running.faults import is_out_of_memory
from thalweg.lab.running.leave import SHARED_UNSEEN, UNSEEN, Leave
from thalweg.lab.running.whole import Whole
from thalweg.lab.spaces import Axis, Space
from thalweg.lab.study.record import Failure, Record, Trial, failed
from thalweg.lab.workload import Workload, chance
from thalweg.lab.workload.contract import option
from thalweg.lab.workload.errors import Doubt, ResumingError
from thalweg.lab.workload.lazy import settled

CPU = torch.device("cpu")


def run(
    trial: Trial,
    workload: Workload,
    device: torch.device = CPU,
    space: Space | None = None,
    leave: Leave | None = None,
    early_stop: bool = False,
) -> Record:
    """Trains once and evaluates.

    A loss that is not finite, or too little memory, ends the run and is recorded as its failure.

    Args:
        trial: what is to be run.
        workload: what is trained, without the changes of a recipe.
        device: where.
        space: the trial's, which holds what cannot be written as data, such as a class of a notebook; by
            default the task's of that name.
        leave: to measure, beside a final run, why it ends where it ends; None not to.
        early_stop: whether it is ended early if it is hopeless.

    Raises:
        ValueError: the workload gave fewer batches than the steps it states.
    """
    return _run(trial, workload, device, space, Way(leave=leave, early_stop=early_stop))[0]


class Beginning(NamedTuple):
    """The first losses of a run (of a function its first report's metric), and where generators were then."""

    losses: list[float]
    places: list[str]


Fresh = Callable[[], tuple[Workload, Space | None]]
"""Gives a copy of the workload to which nothing has been done, and the trial's space."""


def run_on(
    trial: Trial,
    fresh: Fresh,
    device: torch.device = CPU,
    keeper: Keeper | None = None,
    leave: Leave | None = None,
    early_stop: bool = False,
) -> Record:
    """The same, from its checkpoint if there is one, and with checkpoints.

    Args:
        trial: what is run.
        fresh: gives the workload.
        device: where to train.
        keeper: of its checkpoints.
        leave: as in `run`.
        early_stop: as in `run`.
    """
    return _run_on(trial, fresh, device, Way(keeper=keeper, leave=leave, early_stop=early_stop))[0]


def run_checked(
    trial: Trial,
    fresh: Fresh,
    device: torch.device = CPU,
    keeper: Keeper | None = None,
    leave: Leave | None = None,
    early_stop: bool = False,
) -> Record:
    """The same, after its first steps have been made once for the sake of comparison."""
    workload, space = fresh()
    if ranks.size() > 1 and option(workload, "whole_run") is not None:
        # Only the process that reports can be stopped at its first report.
        return run_on(trial, fresh, device, keeper, leave, early_stop)
    try:
        first, before = _run(trial, workload, device, space, Way(steps=REPEATED))
    except Exception:
        if ranks.size() > 1:
            # The others may be waiting for this process where the run itself would not come.
            raise
        # The run itself tells it, with all that belongs to it.
        return run_on(trial, fresh, device, keeper, leave, early_stop)
    if ranks.size() > 1 and first.failure is not None:
        return first
    way = Way(keeper=keeper, leave=leave, early_stop=early_stop)
    record, beginning = _run_on(trial, fresh, device, way)
    text = _difference(before, beginning, workload)
    if not text or record.doubts:
        return record
    return replace(record, doubts=(*record.doubts, Doubt("repeat", text)))


def _difference(first: Beginning, second: Beginning, workload: Workload) -> str:
    """In what the first steps differed when they were made again, in words; empty if in nothing."""
    pairs = zip(first.losses, second.losses, strict=False)
    if differing := [place for place, pair in enumerate(pairs) if _differ(*pair)]:
        place = differing[0]
        whole = option(workload, "whole_run") is not None
        where = f"the first report's {workload.metric}" if whole else f"at step {place + 1} the loss"
        return (
            f"The same seed does not give the same training: {where} was "
            f"{first.losses[place]:.6g} once and {second.losses[place]:.6g} then. Something random does not "
            "come from the seed (torch's, NumPy's and Python's global generators are seeded), or what a run "
            "leaves behind reaches the next (a module beside the task, a file): runs are not compared "
            "exactly pair by pair."
        )
    if any(one != other for one, other in zip(first.places, second.places, strict=False)):
        return (
            "The first steps of a run drew other random numbers when they were made again with the same "
            "seed: something that is drawn once, as by a cache or a global of a module beside the task, is "
            "kept for the runs after it, so what a run gives depends on the runs before it."
        )
    return ""


def _run_on(trial: Trial, fresh: Fresh, device: torch.device, way: Way) -> tuple[Record, Beginning]:
    workload, space = fresh()
    state = None if way.keeper is None else way.keeper.read()
    if way.keeper is not None and state is not None:
        try:
            return _run(trial, workload, device, space, replace(way, state=state))
        except ResumingError as error:
            way.keeper.pass_over(str(error))
        workload, space = fresh()
    return _run(trial, workload, device, space, way)


def _differ(first: float, second: float) -> bool:
    return first != second and not (math.isnan(first) and math.isnan(second))


def _run(
    trial: Trial, workload: Workload, device: torch.device, space: Space | None, way: Way
) -> tuple[Record, Beginning]:
    """A run, or its first steps, and what is to be the same when they are made again."""
    started = time.perf_counter()
    course: Course | Whole | None = None
    space = space or space_of(trial, workload)
    workload = space.applied(workload)
    with chance.left_alone(device):
        try:
            chance.seed_all(trial.seed)
            if option(workload, "whole_run") is not None:
                # Its steps cannot be counted from outside, but its reports can.
                course = Whole(trial, workload, space, device, reports=None if way.steps is None else 1)
                course.train()
                record = course.record()
                is_wanted = way.leave is not None and record.test is not None
                return replace(record, why=UNSEEN if is_wanted else None), Beginning(course.first, [])
            model = settled(workload, workload.model(trial.seed), trial.seed).to(device)
            places = [chance.digest(device)]
            # Seeded again, so that what a model draws while it trains (dropout) does not depend on how
            # many numbers its initialisation drew.
            chance.seed_all(trial.seed)
            leave = way.leave if ranks.size() == 1 else None
            course = Course(trial, workload, model, space, started, leave)
            course.places = places
            course.train(way)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).splitlines()[0] if str(error) else "out of memory"
            if course is None:
                return failed(trial, Failure("out of memory", reason, 0)), Beginning([], [])
            course.fail("out of memory", reason)
        record = course.record()
        if ranks.size() > 1 and way.leave is not None and record.test is not None:
            record = replace(record, why=SHARED_UNSEEN)
        return record, Beginning(course.first, getattr(course, "places", []))


def space_of(trial: Trial, workload: Workload) -> Space:
    """The space or recipe of the task that a trial is of, else one that knows where the optimizer lies."""
    own = list(workload.spaces)
    for recipe in option(workload, "recipes"):
        if recipe.name == trial.name:
            return recipe.space(own)
    for space in own:
        if (space.name, space.optimizer) == (trial.name, trial.optimizer):
            return space
    return Space(trial.name, trial.optimizer, (Axis("lr", 1e-3, 1.0),))
