"""What the lab trains, as a contract that any object may fulfil.

Deriving a class from `Workload` gives it the defaults of all that is optional; an object of any other class
with the same attributes and methods serves as well. Worker processes receive a pickled copy.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from thalweg.lab.spaces import Recipe, Space

Split = Literal["train", "validation", "test"]
"""Parts of the data: one to choose on and one to report on, both held out; what is trained on is evaluated
only where `Workload.until_loss` asks for it."""


class Evaluation(NamedTuple):
    """How a model does on held-out data.

    `metric` is in the workload's own unit; `loss` is the mean loss. Both are finite unless training
    diverged.
    """

    metric: float
    loss: float


class Workload(Protocol):
    """A model, its data and its metric.

    Everything random must come from the `seed` that a method is given or from torch's global
    generator, which is seeded with the same number at the start of each run. Equal seeds then give
    every optimizer the same initial weights and the same batches in the same order.

    The lab moves models, and the tensors inside training batches, to the device it trains on. `evaluate`
    finds that device with `device_of`.
    """

    name: str
    """What the user types, for example ``digits``."""
    steps: int
    """How many optimizer steps one run takes, at least 1."""
    evaluate_every: int
    """Steps between two evaluations on the validation split, at least 1."""
    batch_size: int
    """Examples in one training batch: a condition of the verdict."""

    title: str = ""
    """One line for a reader: the model and the data."""
    metric: str = "loss"
    """The name of the metric, for example ``accuracy``."""
    unit: str = ""
    """The unit of one value, put directly after the number: ``%`` or an empty string."""
    difference_unit: str = ""
    """The unit of a difference of two values, in the plural: ``points``."""
    higher_is_better: bool = False
    """Whether a larger metric is a better one."""
    margin: float | None = None
    """The smallest difference worth having, in the unit of the metric; None for 0.5 where that is
    ``%``, else 2 % of the best mean."""
    target: float | None = None
    """The validation metric that counts as done; None for what every optimizer reaches in the end."""
    clip_norm: float | None = None
    """The Euclidean norm that gradients are clipped to, for every optimizer alike; None for no clipping."""
    spaces: Sequence[Space] = ()
    """Search spaces for optimizers that the lab does not know, or in place of its own."""

    # What follows is for trainings that are more than a loss and a step of one optimizer.

    schedule: Any = "linear"
    """The course of the learning rate: ``linear`` or ``cosine``, after 5 % of warm-up; ``constant`` or None;
    or a method that makes a scheduler of torch or of `thalweg.schedules` from the optimizer it is given."""
    accumulate: int = 1
    """Batches whose gradients are averaged for one step."""
    until_loss: float | None = None
    """Where not None, a run ends at the first evaluation at which the mean loss on all that is trained on
    (`evaluate` on ``train``, in evaluation mode) is no larger, and is measured there; else after `steps`."""
    further: Any = None
    """A method ``(model, split)`` that gives further figures by name, such as the loss on a part of the
    examples: kept with a run that came to its end, they decide nothing."""
    autocast: str | None = None
    """Precision of forward passes: ``bfloat16``, ``float16`` with a GradScaler, None for the model's own."""
    processes: int = 1
    """Processes that share a run, in one group of `torch.distributed`: the task shards its model and its
    batches among them. All call its methods alike; losses are averaged, the first one's `evaluate` counts."""
    recipes: Sequence[Recipe] = ()
    """Named ways to train, to be compared: see `Recipe`."""
    param_groups: Any = None
    """A method ``(model, settings)`` that gives what the optimizer takes in place of ``model.parameters()``,
    such as `thalweg.param_groups`; or a dictionary of that, for which an optimizer each is made. `settings`
    are the optimizer's arguments."""
    training_step: Any = None
    """A method ``(run, batch)`` in place of `loss`: it takes one step and returns its loss; see `Run`."""
    training_loop: Any = None
    """A generator ``(run)`` in place of `batches` and `loss`: it yields the loss after every step. A run
    that is cut off goes on if the task has `state_dict` and `load_state_dict`."""
    whole_run: Any = None
    """A function ``(config)`` in place of all methods: see `thalweg.lab.workload.adapters.FunctionTask`."""

    def model(self, seed: int) -> nn.Module:
        """A new model on the CPU; equal seeds give equal weights, bit for bit."""
        ...

    def batches(self, seed: int) -> Iterator[Any]:
        """At least `steps` training batches; equal seeds give equal batches in equal order."""
        ...

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The training loss of one batch: a scalar to differentiate."""
        ...

    def evaluate(self, model: nn.Module, split: Split) -> Evaluation:
        """Metric and mean loss on a whole split; called without gradients, in evaluation mode."""
        ...

    def facts(self) -> Mapping[str, str]:
        """What a reader must know to repeat the measurement: data, splits, model."""
        return {}


OPTIONS: Mapping[str, Any] = {
    name: getattr(Workload, name)
    for name in (
        "schedule",
        "accumulate",
        "until_loss",
        "further",
        "autocast",
        "processes",
        "recipes",
        "param_groups",
        "training_step",
        "training_loop",
        "whole_run",
    )
}
"""What an object need not have, derived from `Workload` or not, with the defaults."""


def option(workload: Workload, name: str) -> Any:
    """One of `OPTIONS` of a workload."""
    return getattr(workload, name, OPTIONS[name])


def batches_needed(workload: Workload) -> int:
    """How many batches a run draws."""
    return int(workload.steps * option(workload, "accumulate"))


class Run(Protocol):
    """What `training_step` and `training_loop` are given: a run under way.

    Attributes:
        model: what is trained, on `device`, in training mode.
        optimizers: by the names that `param_groups` gave; a single one is called ``main``.
        seed: of this run.
        device: where it trains.
        step: the number of the step that is being taken, from 1 on.
    """

    model: nn.Module
    optimizers: Mapping[str, torch.optim.Optimizer]
    seed: int
    device: torch.device
    step: int

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer, where there is one."""
        ...

    def update(self, loss: Tensor, name: str | None = None) -> float:
        """Zeroes gradients, differentiates, clips and steps the optimizer of that name; returns the loss."""
        ...

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which forward passes have the precision that the task or recipe states."""
        ...


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's parameters."""
    return next(model.parameters()).device
