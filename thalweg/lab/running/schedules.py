"""The course of the learning rate over a run: those that the lab knows by name, and a task's own."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from thalweg.lab.workload.errors import ResumingError
from thalweg.lab.workload.tasks import TaskError

WARM_UP = 0.05
"""The share of all steps over which the learning rate climbs to its full value."""


def schedule(step: int, steps: int) -> float:
    """The factor on the learning rate at `step` of 1 .. `steps`.

    It climbs linearly to 1 over the first 5 % of the steps and falls linearly towards 0, which it
    would reach one step after the last.
    """
    warm_up = _warm_up(steps)
    return min(step / warm_up, (steps + 1 - step) / (steps + 1 - warm_up))


def _cosine(step: int, steps: int) -> float:
    warm_up = _warm_up(steps)
    if step <= warm_up:
        return step / warm_up
    return (1 + math.cos(math.pi * (step - warm_up) / (steps + 1 - warm_up))) / 2


def _constant(step: int, steps: int) -> float:
    return 1.0


def _warm_up(steps: int) -> int:
    return max(1, round(WARM_UP * steps))


NAMED: Mapping[str | None, tuple[Callable[[int, int], float], str]] = {
    "linear": (
        schedule,
        f"the learning rate climbs linearly over the first {100 * WARM_UP:g} % of the steps, then falls "
        "linearly to zero",
    ),
    "cosine": (
        _cosine,
        f"the learning rate climbs linearly over the first {100 * WARM_UP:g} % of the steps, then falls to "
        "zero as half a cosine",
    ),
    "constant": (_constant, "the learning rate is constant"),
    None: (_constant, "the learning rate is constant"),
}
"""By name: the factor at a step of 1 .. steps, and in words."""


def described(chosen: Any) -> str:
    """A schedule in words."""
    return "the learning rate follows the task's own schedule" if callable(chosen) else NAMED[chosen][1]


class Schedule:
    """The learning rates of one optimizer over a run.

    Args:
        chosen: a name, or a method that makes a scheduler for the optimizer.
        optimizer: whose groups hold the full rates.
        steps: of the whole run.
        higher_is_better: of the metric that a scheduler may wait for.

    Raises:
        TaskError: the scheduler waits for a plateau on the wrong side of the metric.
    """

    def __init__(self, chosen: Any, optimizer: Optimizer, steps: int, higher_is_better: bool = False) -> None:
        self._optimizer, self._steps = optimizer, steps
        self._scheduler = chosen(optimizer) if callable(chosen) else None
        if isinstance(self._scheduler, ReduceLROnPlateau):
            mode = "max" if higher_is_better else "min"
            if self._scheduler.mode != mode:
                raise TaskError(
                    f"schedule: ReduceLROnPlateau(mode={self._scheduler.mode!r}) is told the metric, of "
                    f"which {'more' if higher_is_better else 'less'} is better here: mode={mode!r}"
                )
        if self._scheduler is None:
            self._factor = _constant if callable(chosen) else NAMED[chosen][0]
            self._rates = [group["lr"] for group in self._groups()]

    def before(self, step: int) -> None:
        """Sets the rates of a step, counted from 1; a scheduler has done so by itself."""
        if self._scheduler is None:
            factor = self._factor(step, self._steps)
            for group, rate in zip(self._groups(), self._rates, strict=True):
                group["lr"] = rate * factor

    def after(self) -> None:
        """Tells a scheduler that a step was taken."""
        if self._scheduler is not None and not isinstance(self._scheduler, ReduceLROnPlateau):
            self._scheduler.step()

    def evaluated(self, metric: float) -> None:
        """Tells a scheduler that waits for a plateau what validation gave."""
        if isinstance(self._scheduler, ReduceLROnPlateau):
            self._scheduler.step(metric)

    def state(self) -> dict[str, Any]:
        """What is to be kept of it; nothing of one that follows from the step alone.

        Raises:
            ResumingError: it is a scheduler without `state_dict`.
        """
        if self._scheduler is None:
            return {}
        if not callable(getattr(self._scheduler, "state_dict", None)):
            raise ResumingError(f"{type(self._scheduler).__name__} has no state_dict")
        state: dict[str, Any] = self._scheduler.state_dict()
        return state

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` gave."""
        if self._scheduler is not None:
            self._scheduler.load_state_dict(dict(state))

    def _groups(self) -> list[dict[str, Any]]:
        # Asked for each time: an optimizer that has loaded a checkpoint has other ones.
        return [group for group in self._optimizer.param_groups if "lr" in group]
