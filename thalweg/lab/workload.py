"""What the lab trains, as a contract that any object may fulfil.

A workload is pickled once for each worker process, so it should hold its data as NumPy arrays (or
load them on first use) and must be importable there.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, Protocol

from torch import Tensor, nn

Split = Literal["validation", "test"]
"""The held-out parts of the data: one to choose on, one to report on."""


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
    """

    name: str
    """What the user types, for example ``digits``."""
    title: str
    """One line for a reader: the model and the data."""
    metric: str
    """The name of the metric, for example ``accuracy``."""
    unit: str
    """The unit of one value, put directly after the number: ``%`` or an empty string."""
    difference_unit: str
    """The unit of a difference of two values, in the plural: ``points``."""
    higher_is_better: bool
    """Whether a larger metric is a better one."""
    margin: float
    """The smallest difference of the metric that is worth having, in the unit of the metric."""
    steps: int
    """How many optimizer steps one run takes."""
    evaluate_every: int
    """Steps between two evaluations on the validation split."""

    def model(self, seed: int) -> nn.Module:
        """A new model; equal seeds give equal weights, bit for bit."""

    def batches(self, seed: int) -> Iterator[Any]:
        """`steps` training batches; equal seeds give equal batches in equal order."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The training loss of one batch: a scalar to differentiate."""

    def evaluate(self, model: nn.Module, split: Split) -> Evaluation:
        """Metric and mean loss on a whole split; called without gradients, in evaluation mode."""

    def facts(self) -> Mapping[str, str]:
        """What a reader must know to repeat the measurement: data, splits, model, batch size."""
