"""The vocabulary in which update rules are written: `Rule`, `Slot`, `Counter`, `Hyper`, and scalar maths.

An update rule is an ordinary function of scalars. The same function is run on torch tensors (the
reference), traced into machine code (the kernels) and run on Python floats (the scalars of a step), so
its arithmetic uses operators and the few functions below, which mean the same on all three.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import torch

Scalar = Any
"""A Python float, a torch tensor or a traced value: whatever the maths is run on."""


def sqrt(x: Scalar) -> Scalar:
    """Return the square root of `x`; NaN for a negative value, unless `x` is a Python number."""
    return math.sqrt(x) if isinstance(x, (int, float)) else x.sqrt()


def maximum(x: Scalar, y: Scalar) -> Scalar:
    """Return the larger of `x` and `y`, and NaN where either is NaN. `y` may be a number."""
    if isinstance(x, (int, float)):
        return max(x, y)
    if isinstance(x, torch.Tensor) and isinstance(y, (int, float)):
        return x.clamp(min=y)
    return x.maximum(y)


def where(condition: Scalar, x: Scalar, y: Scalar) -> Scalar:
    """Return `x` where `condition` holds and `y` elsewhere. Both are evaluated."""
    if isinstance(condition, bool):
        return x if condition else y
    if isinstance(condition, torch.Tensor):
        return torch.where(condition, x, y)
    return condition.where(x, y)


def sign(x: Scalar) -> Scalar:
    """Return -1, 0 or 1 with the sign of `x`, and NaN for NaN."""
    return where(x > 0, 1.0, where(x < 0, -1.0, x))


def lerp(start: Scalar, end: Scalar, weight: Scalar) -> Scalar:
    """Return `start + weight * (end - start)`, in a form that is exact at `weight` 0 and 1."""
    return (start - weight * start) + weight * end


_FINEST = 2.0**-22
"""Numbers below 1 that are multiples of this are exact in float32, and so are their sums with it."""


def two_parts(name: str, factor: Scalar) -> dict[str, Scalar]:
    """Return a factor near 1 as two scalars, `name` and `name_rest`, for `times`.

    A float32 factor near 1 is off by up to 3e-8. For a beta of 0.999 that is 3e-5 of what an average
    forgets at each step, and it settles that far from its mean; for a decay of 1e-8 it is everything.
    The sum of the two parts, `name` exact in float32 and a positive rest, is off by nothing.
    """
    rest = factor % _FINEST + _FINEST
    return {name: factor - rest, f"{name}_rest": rest}


def times(x: Scalar, factor: Scalar, rest: Scalar) -> Scalar:
    """Return `x` times a factor in `two_parts`. Both being positive, what is infinite stays so."""
    return factor * x + rest * x


def decay(p: Scalar, g: Scalar, s: Any, on: Any) -> tuple[Scalar, Scalar]:
    """Apply weight decay to a parameter and its gradient, as the flags `on.l2`, `on.decoupled` say.

    L2 adds `weight_decay * p` to the gradient. Decoupled decay shrinks the parameter by
    `lr * weight_decay` beside the gradient's way (Loshchilov and Hutter 2019, arXiv 1711.05101).
    """
    if on.l2:
        g = g + s.weight_decay * p
    if on.decoupled:
        p = times(p, s.shrink, s.shrink_rest)
    return p, g


@dataclass(frozen=True)
class Hyper:
    """One hyperparameter: its name and the values it may take.

    Args:
        name: the constructor's argument and the parameter group's key.
        low: smallest value allowed.
        high: bound above; `open_high` says that it is not itself allowed.
        pair: whether the value is a pair, such as Adam's betas.
        flag: whether the value is on or off, by its truth.
        extra: whether it is a flag that torch's optimizer of this name lacks. A group then names it only
            where it is on, so that groups and checkpoints have torch's keys and no others.
    """

    name: str
    low: float = 0.0
    high: float = math.inf
    open_high: bool = False
    pair: bool = False
    flag: bool = False
    extra: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the numbers that it is: none of a flag, with `.0` and `.1` of a pair."""
        if self.flag:
            return ()
        return (f"{self.name}.0", f"{self.name}.1") if self.pair else (self.name,)

    @property
    def allowed(self) -> str:
        """The allowed values in words, as errors and tables show them."""
        if self.flag:
            return "True or False"
        if self.high == math.inf:
            interval = f"at least {self.low:g}"
        else:
            interval = f"in [{self.low:g}, {self.high:g}{')' if self.open_high else ']'}"
        return f"two numbers {interval}" if self.pair else f"a number {interval}"

    def check(self, value: Any) -> None:
        """Raise ValueError or TypeError, naming argument, value and what is allowed."""
        found = self.read(value)
        if self.flag:
            return
        for number in found if self.pair else (found,):
            x = float(number.detach() if isinstance(number, torch.Tensor) else number)
            inside = self.low <= x < self.high if self.open_high else self.low <= x <= self.high
            if not inside or not math.isfinite(x):
                raise ValueError(self._refusal(value))

    def of(self, group: Mapping[str, Any], keep: bool = False) -> Any:
        """Return what `group` says, as `read` returns it.

        Raises:
            KeyError: if it does not say, and the hyperparameter is not `extra`.
        """
        return self.read(group.get(self.name, False) if self.extra else group[self.name], keep)

    def read(self, value: Any, keep: bool = False) -> Any:
        """Return a value as steps compute with it: a bool, a float, or two of them.

        A tensor is read out, unless it is on a GPU, which would have to be waited for, or `keep` says to
        leave it, 0-dim, for the sake of its graph.

        Raises:
            TypeError, ValueError: if it is nothing of the kind, whatever its size.
        """
        if self.flag:
            return self._truth(value)
        if not self.pair:
            return self._number(value, value, keep)
        first, second = self._parts(value)
        return self._number(first, value, keep), self._number(second, value, keep)

    def _truth(self, value: Any) -> bool:
        try:
            return bool(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"{self._refusal(value)}: {error}") from None

    def _parts(self, value: Any) -> Sequence[Any]:
        """Return the two values of anything that has a first and a second, and no third."""
        if isinstance(value, (tuple, list)) and len(value) == 2:
            return value
        if isinstance(value, (str, bytes, Mapping)):
            raise TypeError(self._refusal(value))
        try:
            length, parts = len(value), (value[0], value[1])
        except IndexError:
            raise ValueError(self._refusal(value)) from None
        except (TypeError, KeyError):
            raise TypeError(self._refusal(value)) from None
        if length != 2:
            raise ValueError(self._refusal(value))
        return parts

    def _number(self, number: Any, value: Any, keep: bool) -> Any:
        """Return `number`, which is `value` or one of a pair that `value` is."""
        if type(number) is float:
            return number
        if isinstance(number, torch.Tensor):
            if number.numel() != 1:
                raise ValueError(f"Tensor {self.name} must be 1-element, not {tuple(number.shape)}")
            if (keep or not _is_at_hand(number)) and not number.is_complex():
                return number.reshape(()) if keep else number
            number = number.detach().item()
        try:
            if getattr(number, "shape", ()) != ():
                raise TypeError
            # What cannot be multiplied by a float, such as a string or a Decimal, is no number to torch.
            return float(number * 1.0)
        except (TypeError, ValueError):
            raise TypeError(self._refusal(value) + _hint(number)) from None

    def _refusal(self, value: Any) -> str:
        return f"{self.name} must be {self.allowed}, not {value!r}"


def _is_at_hand(tensor: torch.Tensor) -> bool:
    """Say whether a tensor can be read without waiting for a device."""
    return tensor.device.type == "cpu"


def _hint(number: Any) -> str:
    try:
        is_written_out = isinstance(number, str) and math.isfinite(float(number))
    except ValueError:
        return ""
    return ", a string; YAML 1.1 reads 1e-3 as one, and 1.0e-3 as a number" if is_written_out else ""


LR = Hyper("lr")
EPS = Hyper("eps")
WEIGHT_DECAY = Hyper("weight_decay")
BETAS = Hyper("betas", high=1.0, open_high=True, pair=True)
MAXIMIZE = Hyper("maximize", flag=True)
CAPTURABLE = Hyper("capturable", flag=True)
DIFFERENTIABLE = Hyper("differentiable", flag=True)


def decay_flags(h: Any, decoupled: bool) -> dict[str, bool]:
    """Return the flags that `decay` reads."""
    decays = bool(h.weight_decay != 0)
    return {"l2": decays and not decoupled, "decoupled": decays and decoupled}


def decay_scalars(h: Any) -> dict[str, Scalar]:
    """Return the scalars that `decay` reads."""
    return {"weight_decay": h.weight_decay, **two_parts("shrink", 1 - h.lr * h.weight_decay)}


@dataclass(frozen=True)
class Slot:
    """One tensor of optimizer state, shaped like its parameter.

    Args:
        name: the key in `optimizer.state[p]`; torch's name where torch has the slot.
        signed: whether values may be negative. A second moment is not, which storage can use.
        when: the flag under which the slot exists; always, if None.
        initial: the group's key that holds the initial value; 0, if None.
    """

    name: str
    signed: bool = True
    when: str | None = None
    initial: str | None = None


@dataclass(frozen=True)
class Counter:
    """A 0-dim tensor of state that depends on the step and not on the gradient.

    Args:
        name: the key in `optimizer.state[p]`.
        initial: the value before the first step.
    """

    name: str
    initial: float = 0.0


STEP = (Counter("step"),)


def count(h: Any, t: SimpleNamespace) -> None:
    """Advance the counters of a rule that counts steps and nothing else."""
    t.step = t.step + 1


@dataclass(frozen=True, eq=False)
class Rule:
    """An optimizer, as data: the maths and everything that is derived from it.

    Args:
        name: shown in errors and in the kernel's name.
        update: the maths for one element, `update(p, g, *slots, s, on)`, which returns the new `p`
            and the new slots. `s` holds the scalars, `on` the flags. A slot that the flags leave
            out is None, and what is returned for it is ignored.
        scalars: `scalars(h, t)`, the loop-invariant values of a step by name, from the
            hyperparameters `h` and the counters `t` (after they were advanced). Evaluated in
            float64 on the host, once for each distinct (group, counters).
        flags: `flags(h)`, the static choices by name. They prune branches and choose slots.
        slots: the state, in the order in which `update` takes it.
        hypers: the hyperparameters and what they may be.
        conflict: `conflict(h)` says what is wrong with hyperparameters that do not go together.
        counters: per-parameter counters. A rule without any still sees `t.first`.
        advance: `advance(h, t)`, changes the counters in place at the start of a step, if there are any.
        eager: whether state exists from construction on, and not from the first gradient.
    """

    name: str
    update: Callable[..., tuple[Scalar, ...]]
    scalars: Callable[[Any, Any], dict[str, Scalar]]
    flags: Callable[[Any], dict[str, bool]]
    slots: tuple[Slot, ...]
    hypers: tuple[Hyper, ...]
    conflict: Callable[[Any], str | None] = field(default=lambda h: None)
    counters: tuple[Counter, ...] = STEP
    advance: Callable[[Any, Any], None] = field(default=count)
    eager: bool = False

    def check(self, group: Mapping[str, Any]) -> None:
        """Raise on the first hyperparameter of `group` that is not allowed."""
        for hyper in self.hypers:
            if not hyper.extra or hyper.name in group:
                hyper.check(group[hyper.name])
        conflict = self.conflict(self.numbers(group))
        if conflict:
            raise ValueError(conflict)

    def numbers(self, group: Mapping[str, Any]) -> SimpleNamespace:
        """Return the hyperparameters of `group` by name, as `Hyper.read` returns them."""
        return SimpleNamespace(**{hyper.name: hyper.of(group) for hyper in self.hypers})

    def tensors(self, group: Mapping[str, Any]) -> SimpleNamespace:
        """Return the hyperparameters of `group` as `numbers` does, but tensors as they are, 0-dim."""
        return SimpleNamespace(**{hyper.name: hyper.of(group, keep=True) for hyper in self.hypers})

    def choices(self, group: Mapping[str, Any]) -> dict[str, bool]:
        """Return the hyperparameters of `group` that are flags, by name."""
        return {hyper.name: hyper.of(group) for hyper in self.hypers if hyper.flag}

    @cached_property
    def extras(self) -> tuple[str, ...]:
        """The names of the hyperparameters that torch's optimizer of this name lacks."""
        return tuple(hyper.name for hyper in self.hypers if hyper.extra)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the numbers that the hyperparameters are."""
        return tuple(name for hyper in self.hypers for name in hyper.columns)

    def row(self, h: Any) -> list[Any]:
        """Return the hyperparameters `h` that are numbers, in the order of `columns`."""
        found: list[Any] = []
        for hyper in self.hypers:
            if not hyper.flag:
                found += getattr(h, hyper.name) if hyper.pair else [getattr(h, hyper.name)]
        return found

    def slots_on(self, on: Mapping[str, bool]) -> tuple[Slot, ...]:
        """Return the slots that exist under the flags `on`."""
        return tuple(slot for slot in self.slots if slot.when is None or on[slot.when])

    def apply(self, p: Scalar, g: Scalar, slots: Mapping[str, Scalar], s: Any, on: Any) -> Any:
        """Run `update` with slots by name; return the new `p` and the new slots by name."""
        p, *new = self.update(p, g, *(slots.get(slot.name) for slot in self.slots), s, on)
        return p, {
            slot.name: value for slot, value in zip(self.slots, new, strict=True) if slot.name in slots
        }
