"""What is searched for an optimizer: its hyperparameters, their ranges, and how it is built from a choice.

All are searched log-uniformly. How many hyperparameters are searched depends on the trials there are: see
`Axis.trials`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from torch import nn
from torch.optim import Optimizer

FEW, SOME, MANY = 1, 10, 25
"""Trials from which the learning rate, then momentum, then all else is searched."""

Point = Mapping[str, float]
"""The searched hyperparameters of one trial by the names of their axes."""


@dataclass(frozen=True)
class Axis:
    """One hyperparameter that is searched, log-uniformly.

    Attributes:
        name: of the hyperparameter, for example ``lr`` or ``1 - beta1``.
        low: the smallest value to try, above 0.
        high: the largest.
        default: the value while there are too few trials to search this axis; None to leave the
            argument out.
        trials: the fewest trials with which this axis is searched.
    """

    name: str
    low: float
    high: float
    default: float | None = None
    trials: int = FEW

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < float("inf"):
            raise ValueError(
                f"axis {self.name!r}: a range needs 0 < low < high, not {self.low} and {self.high}"
            )


def _as_named(point: Point) -> dict[str, Any]:
    return dict(point)


@dataclass(frozen=True)
class Space:
    """What is tried for one optimizer.

    Attributes:
        name: what the user types, for example ``adamw``.
        optimizer: where the class lies, for example ``thalweg.AdamW``.
        axes: the hyperparameters that are searched; the learning rate, or what stands for it, comes
            first.
        fixed: constructor arguments that are not searched; all others keep their defaults.
        arguments: turns the values of the axes into constructor arguments; by default an axis is
            the argument of its name.
        source: why these ranges.
    """

    name: str
    optimizer: str
    axes: Sequence[Axis]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    arguments: Callable[[Point], dict[str, Any]] = _as_named
    source: str = ""

    def __post_init__(self) -> None:
        if not self.axes:
            raise ValueError(f"space {self.name!r}: axes must hold at least the learning rate")

    @property
    def title(self) -> str:
        """The name in texts and pictures: ``AdamW`` for ours, else what the space is called."""
        ours = self.optimizer.removeprefix("thalweg.")
        return ours if ours.lower() == self.name.lower() else self.name

    def searched(self, trials: int) -> list[Axis]:
        """The axes that are searched with this many trials."""
        return [axis for axis in self.axes if trials >= axis.trials]

    def settings(self, point: Point) -> dict[str, Any]:
        """All constructor arguments for a point; axes that it lacks take their defaults."""
        values = {axis.name: point.get(axis.name, axis.default) for axis in self.axes}
        known = {name: value for name, value in values.items() if value is not None}
        return {**self.arguments(known), **self.fixed}


def located(optimizer: str) -> Any:
    """What lies at a dotted path.

    Raises:
        ValueError: there is nothing.
    """
    module, _, name = optimizer.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"no optimizer at {optimizer!r}: {error}") from None


def build(optimizer: str, parameters: Iterable[nn.Parameter], settings: Mapping[str, Any]) -> Optimizer:
    """The optimizer that lies at a dotted path, for these parameters and with these settings.

    Raises:
        ValueError: there is no such class.
    """
    kind: Callable[..., Optimizer] = located(optimizer)
    return kind(parameters, **settings)


def code(optimizer: str, settings: Mapping[str, Any]) -> str:
    """The line of Python that builds the same optimizer for a model called ``model``."""
    arguments = ", ".join(f"{key}={_written(value)}" for key, value in settings.items())
    return f"{optimizer}(model.parameters(), {arguments})"


def _written(value: Any) -> str:
    """A value as it is typed: a class or a function by its place."""
    name = getattr(value, "__qualname__", None)
    return f"{value.__module__}.{name}" if name else repr(value)
