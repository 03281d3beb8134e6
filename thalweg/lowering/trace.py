"""Tracing: run an update rule on symbols and keep the arithmetic it does, in order.

A rule has no loops and no branches on data, so one run shows all of it. Equal sub-expressions are kept
once. The result is the input of every kernel writer; none of them ever sees the rule's source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from thalweg.rule import Rule


@dataclass
class Trace:
    """Straight-line arithmetic: `lines[i] = (operation, *operands)`, an operand being an earlier line.

    Operations: `input` (name), `const` (float), `neg`, `abs`, `sqrt`, `add`, `sub`, `mul`, `div`,
    `max`, `lt`, `gt`, `where`.
    """

    lines: list[tuple[Any, ...]] = field(default_factory=list)
    outputs: dict[str, int] = field(default_factory=dict)
    _known: dict[str, int] = field(default_factory=dict)

    def emit(self, *line: Any) -> Symbol:
        """Append a line, or find the equal one, and return its symbol."""
        key = repr(line)  # in which -0.0 is not 0.0, and NaN is NaN
        if key not in self._known:
            self._known[key] = len(self.lines)
            self.lines.append(line)
        return Symbol(self, self._known[key])

    def lift(self, value: Any) -> int:
        """Return the line of `value`, a symbol of this trace or a number."""
        if isinstance(value, Symbol):
            return value.line
        return self.emit("const", float(value)).line


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

    def where(self, x: Any, y: Any) -> Symbol:
        """Record a choice; `self` is the condition."""
        return self._emit("where", self, x, y)

    def __bool__(self) -> bool:
        raise TypeError("a rule cannot branch on data: use where(condition, x, y), or a flag")


def trace(rule: Rule, on: dict[str, bool], scalars: Sequence[str]) -> Trace:
    """Run `rule` on symbols under the flags `on`.

    Inputs are named `p`, `g`, each slot by its name, and each scalar as `s.name`. Outputs are `p`
    and the slots.
    """
    record = Trace()
    slots = {slot.name: record.emit("input", slot.name) for slot in rule.slots_on(on)}
    s = SimpleNamespace(**{name: record.emit("input", f"s.{name}") for name in scalars})
    p, new = rule.apply(record.emit("input", "p"), record.emit("input", "g"), slots, s, SimpleNamespace(**on))
    record.outputs = {name: record.lift(value) for name, value in {"p": p, **new}.items()}
    return record
