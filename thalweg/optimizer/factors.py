"""Factors of the learning rate by step, made of arguments that are checked here."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda x: 1 - x,
    "1-sqrt": lambda x: 1 - math.sqrt(x),
    "cosine": lambda x: (1 + math.cos(math.pi * x)) / 2,
}
"""How the rate falls, from 1 at 0 to 0 at 1."""


@dataclass(frozen=True)
class Phases:
    """The factor of warm-up, a stable phase and a decay, by step.

    A callable of plain numbers, so that `LambdaLR` saves it.

    Args:
        steps: length of the run, at least 1.
        warmup: steps below the full rate, at the beginning.
        decay: steps of the decay, at the end; with `warmup` no more than `steps`.
        end: factor from step `steps` on, in [0, 1].
        shape: a key of `SHAPES`.
    """

    steps: int
    warmup: int
    decay: int
    end: float
    shape: str

    def __call__(self, step: int) -> float:
        """Return the factor of a step, counted from 0."""
        if step >= self.steps:
            return self.end
        if step < self.warmup:
            return _rising(step, self.warmup)
        elapsed = step - (self.steps - self.decay)
        if elapsed <= 0:
            return 1.0
        return self.end + (1 - self.end) * SHAPES[self.shape](elapsed / self.decay)


@dataclass(frozen=True)
class Stairs:
    """The factor of a rate that falls by a factor at even distances, after a warm-up.

    Args:
        every: steps between two falls, above 0; may be a fraction.
        factor: by what the rate is multiplied, in (0, 1].
        warmup: steps below the full rate, at the beginning. Falls are counted from step 0.
    """

    every: float
    factor: float
    warmup: int

    def __call__(self, step: int) -> float:
        """Return the factor of a step, counted from 0."""
        if step < self.warmup:
            return _rising(step, self.warmup)
        return float(self.factor ** math.floor(step / self.every))


def _rising(step: int, warmup: int) -> float:
    # Not step / warmup: the first step would have a rate of 0.
    return (step + 1) / (warmup + 1)


def linear_phases(steps: Any, warmup: Any, end: Any) -> Phases:
    """Return the factor of `schedules.linear`."""
    return _falling_throughout(steps, warmup, end, "linear")


def cosine_phases(steps: Any, warmup: Any, end: Any) -> Phases:
    """Return the factor of `schedules.cosine`."""
    return _falling_throughout(steps, warmup, end, "cosine")


def _falling_throughout(steps: Any, warmup: Any, end: Any, shape: str) -> Phases:
    steps = whole_number("steps", steps, 1)
    warmup = _part("warmup", warmup, steps)
    return Phases(steps, warmup, steps - warmup, _share("end", end), shape)


def wsd_phases(steps: Any, warmup: Any, decay: Any, end: Any, shape: Any) -> Phases:
    """Return the factor of `schedules.wsd`."""
    steps = whole_number("steps", steps, 1)
    warmup_steps, decay_steps = _part("warmup", warmup, steps), _part("decay", decay, steps)
    if warmup_steps + decay_steps > steps:
        raise ValueError(
            f"warmup={warmup!r} and decay={decay!r} must take no more than all steps, not "
            f"{warmup_steps} + {decay_steps} of {steps}"
        )
    if shape not in SHAPES:
        raise ValueError(f"shape must be {' or '.join(map(repr, SHAPES))}, not {shape!r}")
    return Phases(steps, warmup_steps, decay_steps, _share("end", end), shape)


def stairs(every: Any, factor: Any, warmup: Any) -> Stairs:
    """Return the factor of `schedules.staircase`."""
    every, factor = _number("every", every, "a number above 0"), _share("factor", factor)
    if not 0 < every < math.inf:
        raise ValueError(f"every must be a number above 0, not {every!r}")
    if factor == 0:
        raise ValueError("factor must be a number in (0, 1], not 0")
    return Stairs(every, factor, whole_number("warmup", warmup))


def _part(name: str, value: Any, steps: int) -> int:
    """Return a number of steps that was given as such or as a share of all."""
    allowed = f"an int from 0 to steps={steps}, or a float in [0, 1), a share of steps"
    if _is_integral(value):
        if not 0 <= value <= steps:
            raise ValueError(f"{name} must be {allowed}, not {value!r}")
        return int(value)
    share = _number(name, value, allowed)
    if not 0 <= share < 1:
        raise ValueError(f"{name} must be {allowed}, not {value!r}")
    return math.floor(share * steps + 1e-9)  # 0.29 of 100 steps are 28.999999999999996


def whole_number(name: str, value: Any, least: int = 0) -> int:
    """Return an argument that counts something.

    Raises:
        TypeError, ValueError: if it is no int, or below `least`.
    """
    if not _is_integral(value):
        raise TypeError(f"{name} must be an int of at least {least}, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be an int of at least {least}, not {value!r}")
    return int(value)


def _share(name: str, value: Any) -> float:
    share = _number(name, value, "a number in [0, 1]")
    if not 0 <= share <= 1:
        raise ValueError(f"{name} must be a number in [0, 1], not {value!r}")
    return share


def _number(name: str, value: Any, allowed: str) -> float:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be {allowed}, not {value!r}")
    return float(value)


def _is_integral(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
