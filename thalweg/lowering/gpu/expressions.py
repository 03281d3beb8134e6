"""Traces as lines of Triton, which is Python in form."""

from __future__ import annotations

import math
from collections.abc import Callable

from thalweg.lowering.trace import Trace

_BINARY = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "quotient": "/",
    "lt": "<",
    "gt": ">",
    "plus": "+",
    "minus": "-",
    "multiply": "*",
    "and": "&",
    "or": "|",
    "xor": "^",
    "left": "<<",
    "right_signed": ">>",
    "below": "<",
    "above": ">",
}
_OTHERS = {
    "neg": "-{0}",
    "abs": "tl.abs({0})",
    "floor": "tl.floor({0})",
    "max": "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "where": "tl.where({0}, {1}, {2})",
    "choose": "tl.where({0}, {1}, {2})",
    "least": "tl.minimum({0}, {1})",
    "most": "tl.maximum({0}, {1})",
    "right": "({0}.to(tl.uint32, bitcast=True) >> {1}).to(tl.int32, bitcast=True)",
    "least_unsigned": "tl.minimum({0}.to(tl.uint32, bitcast=True), "
    "{1}.to(tl.uint32, bitcast=True)).to(tl.int32, bitcast=True)",
    "bits": "{0}.to(tl.int32, bitcast=True)",
    "real": "{0}.to(tl.float32, bitcast=True)",
    "number": "{0}.to(tl.float32)",
    "float16": "{0}.to(tl.float16).to(tl.float32)",
    "from_float16": "{0}.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)",
    "fma": "tl.fma({0}, {1}, {2})",
    "pow": "tl.exp2({1} * tl.log2({0}))",
}
# In float32 Triton's own are approximations, which take denormal numbers for zero.
_EXACT = {
    "float32": {"div": "tl.math.div_rn({0}, {1})", "sqrt": "tl.sqrt_rn({0})"},
    "float64": {"div": "({0} / {1})", "sqrt": "tl.sqrt({0})"},
}


def lines(
    record: Trace, real: str, name_of: Callable[[str], str], *, prefix: str = "v", suffix: str = "_new"
) -> list[str]:
    """Return a trace as assignments; its outputs are `name` with the suffix, dots turned into underlines.

    Args:
        record: the trace.
        real: the dtype of numbers, `float32` or `float64`.
        name_of: gives the value of an input.
        prefix: of the values between, unique in the kernel.
        suffix: of the outputs, unique likewise.
    """
    names: list[str] = []
    found: list[str] = []
    for i, (operation, *operands) in enumerate(record.lines):
        if operation in ("input", "whole", "truth"):
            names.append(name_of(operands[0]))
            continue
        names.append(f"{prefix}{i}")
        found.append(f"{names[i]} = {_expression(operation, operands, names, real)}")
    return [*found, *(f"{plain(name)}{suffix} = {names[line]}" for name, line in record.outputs.items())]


def plain(name: str) -> str:
    """Return a name as an identifier."""
    return name.replace(".", "_")


def _expression(operation: str, operands: list, names: list[str], real: str) -> str:
    if operation == "const":
        return f"tl.full((), {_literal(operands[0])}, tl.{real})"
    if operation == "integer":
        return f"tl.full((), {operands[0]}, tl.int32)"
    arguments = [names[operand] for operand in operands]
    if operation in _BINARY:
        return f"{arguments[0]} {_BINARY[operation]} {arguments[1]}"
    return (_EXACT[real].get(operation) or _OTHERS[operation]).format(*arguments)


def _literal(value: float) -> str:
    return repr(value) if math.isfinite(value) else f'float("{value}")'
