"""A training run under way: what it measures, and where it ends."""

import math
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import nn

from thalweg.lab.running import hopeless, ranks, resuming
from thalweg.lab.running.checkpoints import Keeper
from thalweg.lab.running.explaining import Explaining
from thalweg.lab.running.faults import divergence, is_divergence, is_result, trained_before
from thalweg.lab.running.leave import Leave
from thalweg.lab.running.training import Training
from thalweg.lab.spaces import Space
from thalweg.lab.study.record import Failure, Point, Record, Timing, Trial
from thalweg.lab.study.why import Why
from thalweg.lab.workload import Evaluation, Split, Workload, chance, tasks
from thalweg.lab.workload.contract import option
from thalweg.lab.workload.errors import ResumingError

_MEASURED = (
    "_curve",
    "_at",
    "_seconds",
    "_step_seconds",
    "_validation",
    "first",
    "places",
    "_losses",
    "_hope",
    "_hopeless",
)
"""What a run has measured so far, by attribute."""

REPEATED = 3
"""First steps of a run that are made twice, to see whether a seed fixes them."""


@dataclass(frozen=True)
class Way:
    """How a run is made: its first steps alone, with checkpoints, from one, measured, perhaps ended early."""

    steps: int | None = None
    keeper: Keeper | None = None
    state: Mapping[str, Any] | None = None
    leave: Leave | None = None
    early_stop: bool = False


class Course:
    """A run under way: what it has measured so far."""

    def __init__(
        self,
        trial: Trial,
        workload: Workload,
        model: nn.Module,
        space: Space,
        started: float,
        leave: Leave | None,
    ) -> None:
        self._trial, self._workload, self._started = trial, workload, started
        self._training = Training(workload, model, space, trial.settings, trial.seed)
        self._curve: list[Point] = []
        self._at: list[float] = []
        self._seconds: list[float] = []
        self._step_seconds: list[float] = []
        self._validation: Evaluation | None = None
        self._test: Evaluation | None = None
        self._failure: Failure | None = None
        self._met: int | None = None
        self._further: dict[str, dict[str, float]] = {}
        self._doubts = trained_before(model.parameters())
        self._why: Why | None = None
        self._explaining = None
        if leave is not None and trial.stage == "final":
            self._explaining = Explaining(self._training, workload, trial.seed, leave)
        self.first: list[float] = []
        self.places: list[str] = []
        self._losses: list[float] = []
        self._hope = hopeless.Hope(workload.higher_is_better)
        self._hopeless: int | None = None

    def _resume(self, state: Mapping[str, Any], keeper: Keeper) -> None:
        for name, value in state["course"].items():
            setattr(self, name, value)
        self._started -= state["elapsed"]
        training = state["training"]

        def then() -> None:
            if self._explaining is not None:
                self._explaining.resume(state.get("explaining"))
            keeper.went_on(training["step"])

        self._training.resume(training, then)

    def _keep(self, keeper: Keeper) -> None:
        model = self._training.model
        if keeper.due(lambda: self._training.state_bytes() + sum(p.nbytes for p in model.parameters())):
            keeper.write(self._state)

    def _state(self) -> dict[str, Any]:
        course = {name: getattr(self, name) for name in _MEASURED}
        elapsed = time.perf_counter() - self._started
        explaining = self._explaining and self._explaining.state()
        training = resuming.state_of(self._training)
        return {"course": course, "elapsed": elapsed, "training": training, "explaining": explaining}

    def train(self, way: Way) -> None:
        """All steps, with the evaluations between them and at the end; or the first so many.

        What the workload raises over numbers that are not finite is divergence, told in its words.
        """
        training = self._training
        if way.keeper is not None and way.state is not None:
            self._resume(way.state, way.keeper)
        try:
            self._train(way)
        except (ResumingError, tasks.TaskError):
            raise
        except Exception as error:
            if training.step == 0 or not is_divergence(error, training.model.parameters()):
                raise
            self.fail("diverged", f"{divergence(error)} (step {training.step})")

    def _train(self, way: Way) -> None:
        workload, training = self._workload, self._training
        if not self._curve and not self._evaluate(None):
            return
        for loss, seconds, step_seconds in islice(training.steps(), workload.steps - len(self._seconds)):
            # That of one process may be infinite alone.
            loss = ranks.mean(loss)
            self._seconds.append(seconds)
            self._step_seconds.append(step_seconds)
            if self._explaining is not None:
                self._explaining.stepped(seconds)
            self._losses.append(loss)
            if len(self.first) < REPEATED:
                self.first.append(loss)
                self.places.append(chance.digest(training.device))
            if training.step == way.steps:
                return
            if not math.isfinite(loss):
                self.fail("diverged", f"the training loss is {loss} at step {training.step}")
                return
            if training.step % workload.evaluate_every == 0 or training.step == workload.steps:
                # Not statistics.fmean: it raises an error where the sum of large losses overflows.
                if not self._evaluate(sum(self._losses) / len(self._losses)):
                    return
                self._losses.clear()
                if self._meets():
                    self._met = training.step
                    break
                if way.early_stop and self._gives_up():
                    return
            if way.keeper is not None and training.step < workload.steps:
                self._keep(way.keeper)
        if training.step < workload.steps and self._met is None:
            raise ValueError(
                f"workload {workload.name!r} gave {training.step} batches but states {workload.steps} steps"
            )
        if self._trial.stage == "final":
            self._test = self._evaluation("test")
            if not all(map(is_result, self._test)):
                self.fail("diverged", self._not_finite("test", self._test))
        if self._failure is None and option(workload, "further") is not None:
            self._add_further(("validation", "test") if self._trial.stage == "final" else ("validation",))
        if self._failure is None and self._explaining is not None:
            self._why = self._explaining.explain()

    def _add_further(self, splits: Sequence[Split]) -> None:
        with self._training.evaluating() as model:
            for split in splits:
                found = self._workload.further(model, split)
                self._further[split] = {name: float(value) for name, value in found.items()}

    def fail(self, kind: Any, text: str) -> None:
        """Records that the run ends here without a result."""
        self._failure = Failure(kind, text, self._training.step)

    def _gives_up(self) -> bool:
        """Whether the run ends here because it is hopeless; one of the tenth is only known to be."""
        step, workload = self._training.step, self._workload
        searched = self._trial.stage in hopeless.STAGES and self._hopeless is None
        if not searched or not self._hope.is_lost(step, workload.steps):
            return False
        if hopeless.is_finished_anyway(self._trial):
            self._hopeless = step
            return False
        self.fail("ended early", self._hope.reason(workload, step))
        return True

    def record(self) -> Record:
        """What has been measured."""
        finished = self._failure is None
        return Record(
            trial=self._trial,
            curve=tuple(self._curve),
            validation=self._validation if finished else None,
            test=self._test if finished else None,
            failure=self._failure,
            state_bytes=self._training.state_bytes(),
            met=self._met,
            further=self._further,
            timing=Timing(
                seconds=sum(self._seconds),
                total=time.perf_counter() - self._started - (self._why.seconds if self._why else 0.0),
                step_ms=1000 * statistics.median(self._step_seconds or [0.0]),
                at=tuple(self._at),
                machine=platform.node(),
            ),
            doubts=self._doubts,
            why=self._why,
            hopeless=self._hopeless,
        )

    def _evaluate(self, loss: float | None) -> bool:
        """Adds a point to the curve, unless what it would show is no result."""
        step = self._training.step
        self._validation = self._evaluation("validation")
        if loss is not None and not math.isfinite(loss):
            self.fail("diverged", f"the mean training loss is {loss} at step {step}")
            return False
        if not all(map(is_result, self._validation)):
            self.fail("diverged", self._not_finite("validation", self._validation))
            return False
        self._curve.append(Point(step, loss, self._validation.metric))
        self._at.append(sum(self._seconds))
        self._hope.look(step, self._validation)
        if step:
            self._training.evaluated(self._validation.metric)
        return True

    def _meets(self) -> bool:
        """Whether the loss on all that is trained on has come down to what the task asks for."""
        least = option(self._workload, "until_loss")
        return least is not None and self._evaluation("train").loss <= least

    def _not_finite(self, split: Split, evaluation: Evaluation) -> str:
        """Which number of an evaluation it is: the loss or, where that is a result, the metric."""
        name, value = "loss", evaluation.loss
        if is_result(value):
            name, value = self._workload.metric, evaluation.metric
        return f"the {split} {name} is {value} after step {self._training.step}"

    def _evaluation(self, split: Split) -> Evaluation:
        with self._training.evaluating() as model:
            found = tasks.measured(self._workload, split, self._workload.evaluate(model, split))
        return Evaluation(*ranks.of_first(found))
