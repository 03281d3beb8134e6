"""What is searched for an optimizer: its hyperparameters, their ranges, and how it is built from a choice.

How many hyperparameters are searched depends on the trials there are: see `Axis.trials`.
"""

import copy
import inspect
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from importlib import import_module
from numbers import Real
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer

FEW, SOME, MANY = 1, 10, 25
"""Trials from which the learning rate, then momentum, then all else is searched."""

ZERO_SHARE = 0.2
"""The share of trials at zero of an axis that has zero as a point of its own."""

Point = Mapping[str, Any]
"""The searched hyperparameters of one trial by the names of their axes."""

PLAIN = (bool, int, float, str, type(None))
"""What a choice may be: it is written to files and into the line to paste."""


@dataclass(frozen=True, repr=False)
class Axis:
    """One hyperparameter that is searched: over a range, log-uniformly, or among choices.

    Attributes:
        name: of the hyperparameter, for example ``lr`` or ``1 - beta1``.
        low: the smallest value to try, above 0 on a log scale.
        high: the largest.
        default: the value while there are too few trials to search this axis; None to leave the
            argument out.
        trials: the fewest trials with which this axis is searched.
        integer: whether values are whole numbers.
        zero: whether 0 is tried too, in a fifth of the trials, beside the range.
        scale: ``"log"``, or ``"linear"`` for a range in which differences count.
        choices: the values to try, in place of a range: texts, numbers, True, False, None.
    """

    name: str
    low: float = math.nan
    high: float = math.nan
    default: Any = None
    trials: int = FEW
    integer: bool = False
    zero: bool = False
    scale: Literal["log", "linear"] = "log"
    choices: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        if self.choices:
            self._check_choices()
            return
        if self.scale not in ("log", "linear"):
            raise ValueError(f"axis {self.name!r}: scale must be 'log' or 'linear', not {self.scale!r}")
        above = 0.0 if self.scale == "log" else -math.inf
        if not (isinstance(self.low, Real) and isinstance(self.high, Real)):
            raise ValueError(
                f"axis {self.name!r}: a range has two numbers, not {self.low!r} and {self.high!r}"
            )
        if not above < self.low < self.high < math.inf:
            needs = "0 < low < high" if self.scale == "log" else "low < high"
            raise ValueError(f"axis {self.name!r}: a range needs {needs}, not {self.low} and {self.high}")
        if self.integer and (self.low != int(self.low) or self.high != int(self.high)):
            raise ValueError(
                f"axis {self.name!r}: a range of whole numbers needs whole ends, not {self.low}, {self.high}"
            )

    def _check_choices(self) -> None:
        object.__setattr__(self, "choices", tuple(self.choices))
        if self.low == self.low or self.high == self.high:
            raise ValueError(f"axis {self.name!r}: it has either a range or choices")
        if len(self.choices) < 2 or not all(isinstance(choice, PLAIN) for choice in self.choices):
            raise ValueError(
                f"axis {self.name!r}: choices must be at least two texts, numbers, True, False or None, "
                f"not {self.choices!r}; of what else an argument may be, such as a tuple, choose by a text "
                "and have the space's `arguments` make it"
            )
        if len({repr(choice) for choice in self.choices}) < len(self.choices):
            raise ValueError(f"axis {self.name!r}: choices must differ, not {self.choices!r}")

    def __repr__(self) -> str:
        # The first five as ever, which names studies; the others where they say something.
        said = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self)[:5]]
        said += [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in fields(self)[5:]
            if getattr(self, f.name) != f.default
        ]
        return f"Axis({', '.join(said)})"

    @property
    def is_rate(self) -> bool:
        """Whether it may stand first: a plain log range, which can be widened by decades."""
        return not (self.choices or self.integer or self.zero or self.scale != "log")

    def at(self, x: float) -> Any:
        """The value at a place in [0, 1), rounded to three significant digits or to a whole number."""
        if self.choices:
            return self.choices[min(int(x * len(self.choices)), len(self.choices) - 1)]
        if self.zero:
            if x < ZERO_SHARE:
                return 0 if self.integer else 0.0
            x = (x - ZERO_SHARE) / (1 - ZERO_SHARE)
        if self.integer:
            # Half a unit wider, so that the ends are as likely as their neighbours.
            value = self._between(self.low - 0.5, self.high + 0.5, x)
            return min(max(round(value), int(self.low)), int(self.high))
        return float(f"{self._between(self.low, self.high, x):.3g}")

    def _between(self, low: float, high: float, x: float) -> float:
        if self.scale == "linear":
            return low + x * (high - low)
        low, high = math.log(low), math.log(high)
        return math.exp(low + x * (high - low))

    def middle(self) -> Any:
        """A value from the middle of the range: to try an optimizer out."""
        return self.at(ZERO_SHARE + (1 - ZERO_SHARE) / 2 if self.zero else 0.5)

    def text(self) -> str:
        """The range or the choices in words: ``0.001 to 1``, ``0, or 1e-06 to 0.01``, ``True or False``."""
        if self.choices:
            return " or ".join(map(str, self.choices))
        return f"{'0, or ' if self.zero else ''}{self.low:g} to {self.high:g}"


def _as_named(point: Point) -> dict[str, Any]:
    return dict(point)


@dataclass(frozen=True)
class Space:
    """What is tried for one optimizer.

    Attributes:
        name: what the user types, for example ``adamw``.
        optimizer: where the class lies, for example ``thalweg.AdamW``; or the class itself, or a function
            that makes an optimizer, as a notebook or a task's file defines it. It becomes its name then.
        axes: the hyperparameters that are searched; the learning rate, or what stands for it, comes
            first.
        fixed: constructor arguments that are not searched; all others keep their defaults.
        arguments: turns the values of the axes into constructor arguments; by default an axis is
            the argument of its name.
        source: why these ranges.
        closure: whether a step takes a closure that evaluates the loss again, as SAM's; LBFGS's, which
            cannot do without, is known for it.
        changes: attributes of the task that are others for this one; see `Recipe`.
        maker: the class or function that `optimizer` was, if it was one.
    """

    name: str
    optimizer: str
    axes: Sequence[Axis]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    arguments: Callable[[Point], dict[str, Any]] = _as_named
    source: str = ""
    closure: bool | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    maker: Callable[..., Optimizer] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise ValueError(f"a space's name must be a text that is not empty, not {self.name!r}")
        if isinstance(self.axes, Axis):
            raise ValueError(f"space {self.name!r}: axes must be a list, not a single Axis; write (axis,)")
        if not isinstance(self.optimizer, str):
            if not callable(self.optimizer):
                said = " ".join(repr(self.optimizer).split())[:60]
                raise ValueError(f"space {self.name!r}: {said} is neither a class nor where one lies")
            object.__setattr__(self, "maker", self.optimizer)
            object.__setattr__(self, "optimizer", _path_of(self.optimizer))
        if not self.axes:
            raise ValueError(f"space {self.name!r}: axes must hold at least the learning rate")
        if not self.axes[0].is_rate:
            raise ValueError(
                f"space {self.name!r}: the first axis is the learning rate, a plain range on a log scale, "
                f"not {self.axes[0]}"
            )
        names = [axis.name for axis in self.axes]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"space {self.name!r}: axes must have different names, not {twice[0]!r} twice")
        if both := [name for name in names if name in self.fixed]:
            raise ValueError(f"space {self.name!r}: {both[0]!r} is searched, it cannot be fixed")

    @property
    def title(self) -> str:
        """The name in texts and pictures: ``AdamW`` for ours, else what the space is called."""
        ours = self.optimizer.removeprefix("thalweg.")
        return ours if ours.lower() == self.name.lower() else self.name

    def searched(self, trials: int) -> list[Axis]:
        """The axes that are searched with this many trials."""
        return [axis for axis in self.axes if trials >= axis.trials]

    def settings(self, point: Point) -> dict[str, Any]:
        """All constructor arguments for a point; axes that it lacks take their defaults.

        A fixed argument that cannot be written to a file, such as a class, is there by its name; `build`
        knows it.
        """
        values = {axis.name: point.get(axis.name, axis.default) for axis in self.axes}
        # A choice may be None; that an axis is not searched is said by its absence from the point.
        known = {name: value for name, value in values.items() if value is not None or name in point}
        fixed = {name: jsonable(value) for name, value in self.fixed.items()}
        return {**self.arguments(known), **fixed}

    def middle(self) -> dict[str, Any]:
        """A point to try the optimizer with: the learning rate in the middle of its range."""
        return {axis.name: axis.middle() for axis in self.searched(FEW)}

    def build(self, parameters: Iterable[Any], settings: Mapping[str, Any]) -> Optimizer:
        """The optimizer for these parameters, with settings that `settings` gave.

        Raises:
            ValueError: there is no such class.
        """
        kind = self.maker or located(self.optimizer)
        made: Optimizer = kind(parameters, **{**settings, **self.fixed})
        return made

    def line(self, settings: Mapping[str, Any]) -> str:
        """The line of Python that builds the same optimizer, and what a recipe changes of the task."""
        changes = ", ".join(f"{key}={_said(value)}" for key, value in self.changes.items())
        line = code(self.optimizer, {**settings, **self.fixed})
        return line + (f"  # {self.name}: {changes}" if changes else "")

    def applied(self, workload: Any) -> Any:
        """The workload as this space trains it: itself, or a copy with the changes."""
        if not self.changes:
            return workload
        changed = copy.copy(workload)
        for name, value in self.changes.items():
            setattr(changed, name, value)
        return changed


def _said(value: Any) -> str:
    """A value as it is typed: a class or a function by its place."""
    return _path_of(value) if callable(value) else repr(value)


def jsonable(value: Any) -> Any:
    """The value itself, or its name where no file can hold it, as a class."""
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return _path_of(value)
    return value


def _path_of(value: Any) -> str:
    """How a class or function is called: with its module, unless that is a script or a task."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if name is None:
        # Where it lies in memory is another each time, and no part of a trial.
        return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
    if module is None or module == "__main__" or module.startswith("_thalweg_task_"):
        return str(name)
    return f"{module}.{name}"


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


def minimal(optimizer: str) -> str:
    """A space to paste for an optimizer that has none: three decades around the class's own learning rate."""
    rate = None
    with suppress(ValueError, TypeError, KeyError):
        rate = inspect.signature(located(optimizer)).parameters["lr"].default
    rate = rate if isinstance(rate, int | float) and 0 < rate < math.inf else 1e-2
    low, high = (float(f"{factor * rate:.3g}") for factor in (0.03, 30))
    name = optimizer.rpartition(".")[2].lower()
    return f'Space("{name}", "{optimizer}", (Axis("lr", {low:g}, {high:g}),))'


def build(optimizer: str, parameters: Iterable[nn.Parameter], settings: Mapping[str, Any]) -> Optimizer:
    """The optimizer that lies at a dotted path, for these parameters and with these settings.

    Raises:
        ValueError: there is no such class.
    """
    kind: Callable[..., Optimizer] = located(optimizer)
    return kind(parameters, **settings)


def code(optimizer: str, settings: Mapping[str, Any]) -> str:
    """The line of Python that builds the same optimizer for a model called ``model``."""
    arguments = ", ".join(f"{key}={_said(value)}" for key, value in settings.items())
    return f"{optimizer}(model.parameters(), {arguments})"
