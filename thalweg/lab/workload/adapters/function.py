"""A plain function that trains and reports, as those for tuners of hyperparameters."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from thalweg.lab.workload.contract import Workload


class Config(dict[str, Any]):
    """What the function is given: the optimizer's arguments by name, and ``seed`` and ``steps``.

    Attributes:
        device: where to train.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        device: torch.device,
        make: Callable[[Iterable[Any]], Optimizer],
        note: Callable[..., None],
    ) -> None:
        super().__init__(values)
        self.device, self._make, self._note = device, make, note

    def optimizer(self, parameters: Iterable[Any]) -> Optimizer:
        """The optimizer that is compared, with the arguments of this run, for these parameters."""
        return self._make(parameters)

    def report(
        self, *, step: int, metric: Any, loss: Any = None, test: Any = None, train_loss: Any = None
    ) -> None:
        """Tells how training goes; the last report counts as the result.

        Args:
            step: optimizer steps so far.
            metric: on validation.
            loss: on validation; by default the metric.
            test: the metric on test, in the last report.
            train_loss: mean training loss since the report before.
        """
        self._note(step=step, metric=metric, loss=loss, test=test, train_loss=train_loss)


class FunctionTask(Workload):
    """Runs ``train(config)``.

    The function seeds what it draws from ``config["seed"]``; torch's generator is seeded before. The
    schedule of the learning rate is the function's own affair: whatever it does is done for all.

    Args:
        train: the function; it calls `config.optimizer(parameters)` and `config.report(step=, metric=)`.
        steps: optimizer steps of one run, ``config["steps"]``.
        batch_size: for the report.
        metric: its name.
        more: what a task may have: `higher_is_better`, `unit`, `margin`, `spaces`, `recipes`, ...
    """

    def __init__(
        self,
        train: Callable[[Any], Any],
        *,
        steps: int,
        batch_size: int,
        metric: str = "loss",
        **more: Any,
    ) -> None:
        self.whole_run, self.steps, self.batch_size, self.metric = train, steps, batch_size, metric
        self.evaluate_every = steps
        for name, value in more.items():
            setattr(self, name, value)

    def model(self, seed: int) -> nn.Module:
        """Nothing: the model is inside the function."""
        return nn.Module()
