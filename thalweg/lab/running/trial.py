"""One training run."""

import math
import platform
import statistics
import time
from itertools import islice
from typing import Any

import torch
from torch import nn

from thalweg.lab.running.training import Training
from thalweg.lab.running.whole import Whole
from thalweg.lab.spaces import Axis, Space
from thalweg.lab.study.record import Failure, Point, Record, Timing, Trial, failed
from thalweg.lab.workload import Evaluation, Split, Workload
from thalweg.lab.workload.contract import option, plain

CPU = torch.device("cpu")


def run(trial: Trial, workload: Workload, device: torch.device = CPU, space: Space | None = None) -> Record:
    """Trains once and evaluates.

    A loss that is not finite, or too little memory, ends the run and is recorded as its failure.

    Args:
        trial: what is to be run.
        workload: what is trained, without the changes of a recipe.
        device: where.
        space: the trial's, which holds what cannot be written as data, such as a class of a notebook; by
            default the task's of that name.

    Raises:
        ValueError: the workload gave fewer batches than the steps it states.
    """
    started = time.perf_counter()
    course: _Course | Whole | None = None
    space = space or space_of(trial, workload)
    workload = space.applied(workload)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            torch.manual_seed(trial.seed)
            if option(workload, "whole_run") is not None:
                course = Whole(trial, workload, space, device)
                course.train()
                return course.record(time.perf_counter() - started)
            model = workload.model(trial.seed).to(device)
            # Seeded again, so that what a model draws while it trains (dropout) does not depend on how
            # many numbers its initialisation drew.
            torch.manual_seed(trial.seed)
            course = _Course(trial, workload, model, space)
            course.train()
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            reason = str(error).splitlines()[0] if str(error) else "out of memory"
            if course is None:
                return failed(trial, Failure("out of memory", reason, 0))
            course.fail("out of memory", reason)
        return course.record(time.perf_counter() - started)


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


class _Course:
    """A run under way: what it has measured so far."""

    def __init__(self, trial: Trial, workload: Workload, model: nn.Module, space: Space) -> None:
        self._trial, self._workload = trial, workload
        self._training = Training(workload, model, space, trial.settings, trial.seed)
        self._curve: list[Point] = []
        self._at: list[float] = []
        self._seconds: list[float] = []
        self._step_seconds: list[float] = []
        self._validation: Evaluation | None = None
        self._test: Evaluation | None = None
        self._failure: Failure | None = None

    def train(self) -> None:
        """All steps, with the evaluations between them and at the end."""
        workload, training = self._workload, self._training
        losses: list[float] = []
        if not self._evaluate(None):
            return
        for loss, seconds, step_seconds in islice(training.steps(), workload.steps):
            self._seconds.append(seconds)
            self._step_seconds.append(step_seconds)
            losses.append(loss)
            if not math.isfinite(loss):
                self.fail("diverged", f"the training loss is {loss} at step {training.step}")
                return
            if training.step % workload.evaluate_every == 0 or training.step == workload.steps:
                # Not statistics.fmean: it raises an error where the sum of large losses overflows.
                if not self._evaluate(sum(losses) / len(losses)):
                    return
                losses = []
        if training.step < workload.steps:
            raise ValueError(
                f"workload {workload.name!r} gave {training.step} batches but states {workload.steps} steps"
            )
        if self._trial.stage == "final":
            self._test = self._evaluation("test")
            if not all(map(math.isfinite, self._test)):
                self.fail("diverged", f"the test {_not_finite(self._test)} after step {training.step}")

    def fail(self, kind: Any, text: str) -> None:
        """Records that the run ends here without a result."""
        self._failure = Failure(kind, text, self._training.step)

    def record(self, total: float) -> Record:
        """What has been measured."""
        finished = self._failure is None
        return Record(
            trial=self._trial,
            curve=tuple(self._curve),
            validation=self._validation if finished else None,
            test=self._test if finished else None,
            failure=self._failure,
            state_bytes=self._training.state_bytes(),
            timing=Timing(
                seconds=sum(self._seconds),
                total=total,
                step_ms=1000 * statistics.median(self._step_seconds or [0.0]),
                at=tuple(self._at),
                machine=platform.node(),
            ),
        )

    def _evaluate(self, loss: float | None) -> bool:
        """Adds a point to the curve, unless what it would show is not finite."""
        step = self._training.step
        self._validation = self._evaluation("validation")
        if loss is not None and not math.isfinite(loss):
            self.fail("diverged", f"the mean training loss is {loss} at step {step}")
            return False
        if not all(map(math.isfinite, self._validation)):
            self.fail("diverged", f"the validation {_not_finite(self._validation)} after step {step}")
            return False
        self._curve.append(Point(step, loss, self._validation.metric))
        self._at.append(sum(self._seconds))
        if step:
            self._training.evaluated(self._validation.metric)
        return True

    def _evaluation(self, split: Split) -> Evaluation:
        with self._training.evaluating() as model:
            return plain(self._workload.evaluate(model, split))


def _not_finite(evaluation: Evaluation) -> str:
    """Which of the two is not: ``loss is nan``, ``metric is nan``."""
    name, value = next((n, v) for n, v in evaluation._asdict().items() if not math.isfinite(v))
    return f"{name} is {value}"


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, which torch's CPU allocator and CUDA's libraries say only in words."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(
        words in str(error)
        for words in ("can't allocate memory", "CUDA error: out of memory", "_ALLOC_FAILED")
    )
