"""One step of an optimizer or recipe before the first run, so that what cannot work is told at once.

Optimizers that the lab knows, on a task without options of its own, need none.
"""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from thalweg.lab.running import ranks
from thalweg.lab.running.training import Training
from thalweg.lab.running.whole import Whole
from thalweg.lab.spaces import SPACES, Space
from thalweg.lab.study.record import Trial
from thalweg.lab.workload import Workload, chance, tasks
from thalweg.lab.workload.batches import leaves
from thalweg.lab.workload.contract import OPTIONS, option
from thalweg.lab.workload.lazy import settled
from thalweg.lab.workload.tasks import TaskError
from thalweg.lab.workload.tasks.errors import one_line

SEED = 0


def rehearse(workload: Workload, spaces: Sequence[Space], file: Path | None = None) -> None:
    """Tries every space that may fail: its changes fit the task, the optimizer can be built and takes a step.

    All that is wrong is told at once. Nothing is learned, and the global generators are left as they were.

    Raises:
        TaskError: one cannot be trained with; the message names each, and why.
    """
    known = [space for space in spaces if SPACES.get(space.name) is space]
    new = spaces if known and not _is_plain(workload) else [space for space in spaces if space not in known]
    wrong = [f"{space.name}: {reason}" for space in new if (reason := _wrong(workload, space, file))]
    if wrong:
        raise TaskError("; ".join(wrong))


def _wrong(workload: Workload, space: Space, file: Path | None) -> str:
    try:
        _fits(workload, space)
        changed = space.applied(workload)
        if space.changes:
            tasks.check(changed, file)
            tasks.smoke(changed, file)
        _step(changed, space)
    except TaskError as error:
        return str(error)
    except (Exception, SystemExit) as error:
        place = f"{tasks.explain(error, file)}" if file and _is_from(error, file) else ""
        return place or f"{type(error).__name__}: {one_line(error)[:500]}"
    return ""


def _fits(workload: Workload, space: Space) -> None:
    """Sees that what a recipe changes is there, and that another batch size makes other batches."""
    if "processes" in space.changes:
        raise TaskError("a recipe cannot change processes, which all runs of a task have alike")
    for name in space.changes:
        if not hasattr(workload, name) and name not in OPTIONS:
            raise TaskError(f"the task has no {name!r} that the recipe could change")
    drawn = all(option(workload, name) is None for name in ("training_loop", "whole_run"))
    if "batch_size" not in space.changes or not drawn:
        return
    changed = space.applied(workload)
    if changed.batch_size != workload.batch_size and _shapes(changed) == _shapes(workload):
        raise TaskError("batch_size has no effect: `batches` does not read self.batch_size")


def _shapes(workload: Workload) -> list[Any]:
    with chance.left_alone():
        chance.seed_all(SEED)
        batch = next(iter(workload.batches(SEED)))
    return [getattr(leaf, "shape", None) for leaf in leaves(batch)]


def _is_plain(workload: Workload) -> bool:
    """Whether the task has nothing that one of our optimizers may not fit: then they are not tried."""
    own = ("param_groups", "training_step", "training_loop", "whole_run", "autocast")
    if not isinstance(option(workload, "schedule"), str):
        return False
    if any(option(workload, name) is not None for name in own):
        return False
    with chance.left_alone():
        chance.seed_all(SEED)
        return not any(getattr(module, "sparse", False) for module in workload.model(SEED).modules())


def _step(workload: Workload, space: Space) -> None:
    with chance.left_alone(), contextlib.redirect_stdout(io.StringIO()):
        chance.seed_all(SEED)
        if option(workload, "whole_run") is not None:
            if ranks.size() > 1:
                # Only the process that reports can be stopped at its first report.
                return
            settings, point = space.settings(space.middle()), space.middle()
            trial = Trial("tune", space.name, space.optimizer, settings, point, SEED)
            Whole(trial, workload, space, torch.device("cpu"), reports=1).train()
            return
        model = settled(workload, workload.model(SEED), SEED)
        training = Training(workload, model, space, space.settings(space.middle()), SEED)
        if next(training.steps(), None) is None:
            raise TaskError("it takes no step")
        with training.evaluating():
            pass


def _is_from(error: BaseException, file: Path) -> bool:
    """Whether an error arose in the user's file, and not in an optimizer that it uses."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and tasks.errors.is_of(trace.tb_frame.f_code.co_filename, file)
