"""Tracing: run an update rule on symbols and keep the arithmetic it does, in order.

A rule has no loops and no branches on data, so one run shows all of it. Equal sub-expressions are kept
once. The result is the input of every kernel writer; none of them ever sees the rule's source.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from thalweg.rule import Recipe


@dataclass
class Trace:
    """Straight-line arithmetic: `lines[i] = (operation, *operands)`, an operand being an earlier line.

    Operations: `input` (name), `const` (float), `neg`, `abs`, `sqrt`, `add`, `sub`, `mul`, `div`, `quotient`,
    `max`, `lt`, `gt`, `where`; of the scalars of a step, `pow` (of what is not negative), `floor` and
    `truth`, a condition (an input's name); on the bits of float32, as int32: `integer` (constant),
    `whole` (an input's name), `bits`, `real`, `number`, `plus`, `minus`, `multiply`, `and`, `or`, `left`,
    `right` (zeros come in), `right_signed`, `xor`, `least`, `most`, `least_unsigned`, `below`, `above` and
    `choose`; `float16`, there and back, and `from_float16`, the number with such bits. `lowering.fusion`
    makes `fma`, a product and a sum that are rounded once where the processor can.
    """

    lines: list[tuple[Any, ...]] = field(default_factory=list)
    outputs: dict[str, int] = field(default_factory=dict)
    _known: dict[str, int] = field(default_factory=dict)

    @property
    def inputs(self) -> list[str]:
        """The names of all inputs."""
        return [line[1] for line in self.lines if line[0] in ("input", "whole", "truth")]

    def emit(self, *line: Any) -> Symbol:
        """Append a line, or find the equal one, and return its symbol."""
        key = repr(line)  # in which -0.0 is not 0.0, and NaN is NaN
        if key not in self._known:
            self._known[key] = len(self.lines)
            self.lines.append(line)
        return Symbol(self, self._known[key])

    def lift(self, value: Any) -> int:
        """Return the line of `value`, a symbol of this trace or a number."""
        if isinstance(value, (Symbol, Integer)):
            return value.line
        return self.emit("const", float(value)).line

    def integer(self, *line: Any) -> Integer:
        """Append a line whose value is an int32, or find the equal one, and return its symbol."""
        return Integer(self, self.emit(*line).line)

    def lift_integer(self, value: Any) -> int:
        """Return the line of `value`, an integer symbol of this trace or an int."""
        if isinstance(value, Integer):
            return value.line
        return self.emit("integer", operator.index(value)).line


_LEAVES = ("input", "const", "integer", "whole", "truth")


def operands_of(line: tuple[Any, ...]) -> tuple[int, ...]:
    """Return the earlier lines that a line of a trace needs."""
    return () if line[0] in _LEAVES else line[1:]


class Symbol:
    """A value of the trace; arithmetic on it is recorded."""

    __slots__ = ("line", "trace")

    def __init__(self, trace: Trace, line: int) -> None:
        self.trace = trace
        self.line = line

    def _emit(self, operation: str, *operands: Any) -> Symbol:
        return self.trace.emit(operation, *map(self.trace.lift, operands))

    def __add__(self, other: Any) -> Symbol:
        return self._emit("add", self, other)

    def __radd__(self, other: Any) -> Symbol:
        return self._emit("add", other, self)

    def __sub__(self, other: Any) -> Symbol:
        return self._emit("sub", self, other)

    def __rsub__(self, other: Any) -> Symbol:
        return self._emit("sub", other, self)

    def __mul__(self, other: Any) -> Symbol:
        return self._emit("mul", self, other)

    def __rmul__(self, other: Any) -> Symbol:
        return self._emit("mul", other, self)

    def __truediv__(self, other: Any) -> Symbol:
        return self._emit("div", self, other)

    def __rtruediv__(self, other: Any) -> Symbol:
        return self._emit("div", other, self)

    def __pow__(self, other: Any) -> Symbol:
        return self._emit("pow", self, other)

    def __rpow__(self, other: Any) -> Symbol:
        return self._emit("pow", other, self)

    def __mod__(self, other: Any) -> Symbol:
        return self - self._emit("floor", self / other) * other

    def __neg__(self) -> Symbol:
        return self._emit("neg", self)

    def __abs__(self) -> Symbol:
        return self._emit("abs", self)

    def __lt__(self, other: Any) -> Symbol:
        return self._emit("lt", self, other)

    def __gt__(self, other: Any) -> Symbol:
        return self._emit("gt", self, other)

    def sqrt(self) -> Symbol:
        """Record a square root."""
        return self._emit("sqrt", self)

    def maximum(self, other: Any) -> Symbol:
        """Record a maximum that lets NaN through."""
        return self._emit("max", self, other)

    def where(self, x: Any, y: Any) -> Any:
        """Record a choice; `self` is the condition. The choice is an integer if one of the two is."""
        if isinstance(x, Integer) or isinstance(y, Integer):
            lines = map(self.trace.lift_integer, (x, y))
            return self.trace.integer("choose", self.line, *lines)
        return self._emit("where", self, x, y)

    def under(self, x: Any) -> Symbol:
        """Return a quotient, `x` over this, of which the last two bits may be off."""
        return self._emit("quotient", x, self)

    def bits(self) -> Integer:
        """Record taking the bits of a float32."""
        return self.trace.integer("bits", self.line)

    def to_float16_and_back(self) -> Symbol:
        """Record rounding to float16."""
        return self._emit("float16", self)

    def __bool__(self) -> bool:
        raise TypeError("a rule cannot branch on data: use where(condition, x, y), or a flag")


class Integer:
    """An int32 of the trace, as `thalweg.storage.codecs.bits` uses it; arithmetic on it is recorded."""

    __slots__ = ("line", "trace")

    def __init__(self, trace: Trace, line: int) -> None:
        self.trace = trace
        self.line = line

    def _emit(self, operation: str, *operands: Any) -> Integer:
        return self.trace.integer(operation, *map(self.trace.lift_integer, operands))

    def _compare(self, operation: str, other: Any) -> Symbol:
        return self.trace.emit(operation, self.line, self.trace.lift_integer(other))

    def __add__(self, other: Any) -> Integer:
        return self._emit("plus", self, other)

    def __sub__(self, other: Any) -> Integer:
        return self._emit("minus", self, other)

    def __rsub__(self, other: Any) -> Integer:
        return self._emit("minus", other, self)

    def __neg__(self) -> Integer:
        return self._emit("minus", 0, self)

    def __mul__(self, other: Any) -> Integer:
        return self._emit("multiply", self, other)

    def __and__(self, other: Any) -> Integer:
        return self._emit("and", self, other)

    def __or__(self, other: Any) -> Integer:
        return self._emit("or", self, other)

    def __xor__(self, other: Any) -> Integer:
        return self._emit("xor", self, other)

    def __lshift__(self, other: Any) -> Integer:
        return self._emit("left", self, other)

    def __rlshift__(self, other: Any) -> Integer:
        return self._emit("left", other, self)

    def __rshift__(self, other: Any) -> Integer:
        return self._emit("right_signed", self, other)

    def __lt__(self, other: Any) -> Symbol:
        return self._compare("below", other)

    def __gt__(self, other: Any) -> Symbol:
        return self._compare("above", other)

    def shift_right(self, n: int) -> Integer:
        """Record a shift to the right, zeros coming in."""
        return self._emit("right", self, n)

    def at_most(self, other: Any) -> Integer:
        """Record the smaller of two."""
        return self._emit("least", self, other)

    def at_least(self, other: Any) -> Integer:
        """Record the larger of two."""
        return self._emit("most", self, other)

    def byte(self) -> Integer:
        """Record the smaller of 255 and this, read as a number without sign."""
        return self._emit("least_unsigned", self, 255)

    def real(self) -> Symbol:
        """Record reading the bits as a float32."""
        return self.trace.emit("real", self.line)

    def number(self) -> Symbol:
        """Record the float32 that is this number, which it is exactly below 2^24."""
        return self.trace.emit("number", self.line)

    def float16(self) -> Symbol:
        """Record reading the lowest bits as a float16."""
        return self.trace.emit("from_float16", self.line)

    def __bool__(self) -> bool:
        raise TypeError("a codec cannot branch on data: use where(condition, x, y)")


RowMean = Callable[[Symbol], Symbol]


def trace(recipe: Recipe, on: Mapping[str, bool], scalars: Sequence[str]) -> Trace:
    """Run `rule` on symbols under the flags `on`.

    Inputs are named `p`, `g`, each slot by its name, and each scalar as `s.name`. Outputs are `p`
    and the slots.
    """
    record = Trace()
    names = ["p", *(slot.name for slot in recipe.slots_on(on))]
    values = {name: record.emit("input", name) for name in names}
    new = record_recipe(record, recipe, on, scalars, values)
    record.outputs = {name: value.line for name, value in new.items()}
    return record


def record_recipe(
    record: Trace,
    recipe: Recipe,
    on: Mapping[str, bool],
    scalars: Sequence[str],
    values: Mapping[str, Symbol],
    row_mean: RowMean | None = None,
) -> dict[str, Symbol]:
    """Append `rule` to a trace, from the values of `p` and the slots; return the new ones.

    Args:
        record: the trace.
        recipe: what steps are made by.
        on: its flags.
        scalars: the names of the scalars.
        values: of `p` and the slots, by name.
        row_mean: what makes a row's mean of an element's square; None, if nothing is kept by row.
    """
    p, new = recipe.apply(*_arguments(record, on, scalars, values, row_mean))
    return {name: Symbol(record, record.lift(value)) for name, value in {"p": p, **new}.items()}


def record_measures(
    record: Trace,
    recipe: Recipe,
    stage: str,
    on: Mapping[str, bool],
    scalars: Sequence[str],
    values: Mapping[str, Symbol],
    row_mean: RowMean | None = None,
) -> dict[str, Symbol]:
    """Append the summands of the measures of a stage to a trace; return them by name."""
    found = recipe.measure(stage, *_arguments(record, on, scalars, values, row_mean))
    return {name: Symbol(record, record.lift(value)) for name, value in found.items()}


def _arguments(
    record: Trace,
    on: Mapping[str, bool],
    scalars: Sequence[str],
    values: Mapping[str, Symbol],
    row_mean: RowMean | None,
) -> tuple[Symbol, Symbol, dict[str, Symbol], SimpleNamespace, SimpleNamespace]:
    slots = {name: value for name, value in values.items() if name != "p"}
    s = SimpleNamespace(**{name: record.emit("input", f"s.{name}") for name in scalars})
    s.row_mean = row_mean
    return values["p"], record.emit("input", "g"), slots, s, SimpleNamespace(**on)
