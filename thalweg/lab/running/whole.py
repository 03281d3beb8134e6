"""A run that is a function of the user's: it trains by itself and reports."""

import platform
import time
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from thalweg.lab.running import ranks
from thalweg.lab.running.faults import divergence, is_divergence, is_result, trained_before
from thalweg.lab.running.training import state_bytes
from thalweg.lab.spaces import Space
from thalweg.lab.study.record import Failure, Point, Record, Timing, Trial
from thalweg.lab.workload import Evaluation, Workload
from thalweg.lab.workload.adapters.function import Config
from thalweg.lab.workload.contract import option


class Ended(Exception):  # noqa: N818
    """Leaves the user's function where it is; not an error."""


class Whole:
    """What a function has reported so far.

    Args:
        trial: what is run.
        workload: whose function it is, with the changes of a recipe.
        space: how the optimizer is built.
        device: where.
        reports: after how many to leave the function; None for never.
    """

    def __init__(
        self, trial: Trial, workload: Workload, space: Space, device: torch.device, reports: int | None = None
    ) -> None:
        self._trial, self._workload, self._space, self._device = trial, workload, space, device
        self._left, self._started = reports, time.perf_counter()
        self._curve: list[Point] = []
        self._at: list[float] = []
        self._optimizers: list[Optimizer] = []
        self._stepped = False
        self._validation: Evaluation | None = None
        self._test: Evaluation | None = None
        self._failure: Failure | None = None
        self.first: list[float] = []

    def train(self) -> None:
        """Calls the function, to its end or until it has reported what is not finite.

        What it raises over numbers that are not finite is divergence, told in its words.
        """
        values = {**self._trial.settings, "seed": self._trial.seed, "steps": self._workload.steps}
        self._began = time.perf_counter()
        try:
            option(self._workload, "whole_run")(Config(values, self._device, self._make, self._note))
        except Ended:
            return
        except Exception as error:
            if not (self._stepped or self._curve) or not is_divergence(error, self._parameters()):
                raise
            self.fail("diverged", divergence(error))
            return
        if ranks.rank():
            return
        if self._validation is None:
            raise ValueError("the function ended without a report: call config.report(step=, metric=)")
        if self._trial.stage == "final" and self._test is None:
            raise ValueError("the function reported no test metric: config.report(..., test=) at the end")
        if not self._optimizers:
            raise ValueError("the function did not call config.optimizer(parameters)")

    def fail(self, kind: Any, text: str) -> None:
        """Records that the run ends here without a result."""
        self._failure = Failure(kind, text, self._curve[-1].step if self._curve else None)

    def record(self) -> Record:
        """What has been reported."""
        total = time.perf_counter() - self._started
        finished = self._failure is None
        steps = max(1, self._workload.steps)
        return Record(
            trial=self._trial,
            curve=tuple(self._curve),
            validation=self._validation if finished else None,
            test=self._test if finished and self._trial.stage == "final" else None,
            failure=self._failure,
            state_bytes=sum(map(state_bytes, self._optimizers)),
            timing=Timing(total, total, 1000 * total / steps, tuple(self._at), platform.node()),
            doubts=trained_before(self._parameters()),
        )

    def _parameters(self) -> list[Tensor]:
        return [
            parameter
            for optimizer in self._optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        ]

    def _make(self, parameters: Any) -> Optimizer:
        optimizer = self._space.build(parameters, self._trial.settings)
        self._optimizers.append(optimizer)
        if callable(hook := getattr(optimizer, "register_step_post_hook", None)):
            hook(self._note_step)
        return optimizer

    def _note_step(self, *_: Any) -> None:
        self._stepped = True

    def _note(self, *, step: int, metric: Any, loss: Any, test: Any, train_loss: Any) -> None:
        value = float(metric)
        numbers = [value, float(value if loss is None else loss)]
        if not self.first:
            self.first.append(value)
        for name, number in (("metric", value), ("loss", numbers[1]), ("training loss", train_loss)):
            if number is not None and not is_result(float(number)):
                self._failure = Failure("diverged", f"the {name} is {float(number)} at step {step}", step)
                raise Ended
        self._validation = Evaluation(*numbers)
        self._test = None if test is None else Evaluation(float(test), float(test))
        self._curve.append(Point(int(step), None if train_loss is None else float(train_loss), value))
        self._at.append(time.perf_counter() - self._began)
        if self._left is not None:
            self._left -= 1
            if not self._left:
                raise Ended
