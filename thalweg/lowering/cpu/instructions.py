"""Traces and plain storage as lines of LLVM assembly."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import numpy as np

from thalweg.lowering.trace import Trace
from thalweg.storage.codecs import Codec

TYPES = {
    "float64": "double",
    "float32": "float",
    "float16": "half",
    "bfloat16": "i16",
    "int8": "i8",
    "uint8": "i8",
    "int16": "i16",
}
"""How a stored element is typed: by the name of its codec, or of its torch dtype."""

BYTES = {"double": 8, "float": 4, "half": 2, "i16": 2, "i8": 1}
"""The bytes of such a type."""

_BINARY = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv", "quotient": "fdiv"}
_COMPARE = {"lt": "olt", "gt": "ogt"}
_CALLS = {"sqrt": "sqrt", "abs": "fabs", "max": "maximum", "fma": "fmuladd", "pow": "pow", "floor": "floor"}
_INTEGER_BINARY = {
    "plus": "add",
    "minus": "sub",
    "multiply": "mul",
    "and": "and",
    "or": "or",
    "xor": "xor",
    "left": "shl",
    "right": "lshr",
    "right_signed": "ashr",
}
_INTEGER_COMPARE = {"below": "slt", "above": "sgt"}
_INTEGER_CALLS = {"least": "smin", "most": "smax", "least_unsigned": "umin"}
_INTEGERS = {"integer", "whole", "bits", "choose", *_INTEGER_BINARY, *_INTEGER_CALLS}

LANES = 4
"""Elements of the vectors that arithmetic can be done on instead of numbers."""

DECLARATIONS = """\
declare float @llvm.sqrt.f32(float)
declare double @llvm.sqrt.f64(double)
declare float @llvm.fabs.f32(float)
declare double @llvm.fabs.f64(double)
declare float @llvm.maximum.f32(float, float)
declare double @llvm.maximum.f64(double, double)
declare float @llvm.fmuladd.f32(float, float, float)
declare double @llvm.fmuladd.f64(double, double, double)
declare double @llvm.pow.f64(double, double)
declare double @llvm.floor.f64(double)
declare i32 @llvm.smin.i32(i32, i32)
declare i32 @llvm.smax.i32(i32, i32)
declare i32 @llvm.umin.i32(i32, i32)
declare <4 x i32> @llvm.smin.v4i32(<4 x i32>, <4 x i32>)
declare <4 x i32> @llvm.smax.v4i32(<4 x i32>, <4 x i32>)
declare i64 @llvm.umin.i64(i64, i64)
declare void @llvm.prefetch.p0(ptr, i32, i32, i32)
"""


def arithmetic(
    record: Trace,
    real: str,
    name_of: Callable[[str], str],
    *,
    prefix: str = "v",
    suffix: str = "new",
    lanes: int = 0,
) -> list[str]:
    """Return the instructions of a trace; its outputs are `%name.suffix`.

    Args:
        record: the trace.
        real: the type of numbers, `float` or `double`.
        name_of: gives the value of an input.
        prefix: of the values between, unique in the function.
        suffix: of the outputs, unique likewise.
        lanes: how many elements the vectors have that are computed with; 0, if they are numbers.
    """
    names: list[str] = []
    lines: list[str] = []
    for i, (operation, *operands) in enumerate(record.lines):
        if operation in ("input", "whole", "truth"):
            names.append(name_of(operands[0]))
        elif operation == "const":
            names.append(_all(lanes, real, _literal(operands[0], real)))
        elif operation == "integer":
            names.append(_all(lanes, "i32", str(operands[0])))
        else:
            names.append(f"%{prefix}{i}")
            arguments = [names[operand] for operand in operands]
            if operation == "float16":
                lines.append(f"  {names[i]}.half = fptrunc {real} {arguments[0]} to half")
                arguments = [f"{names[i]}.half"]
            if operation == "from_float16":
                lines.append(f"  {names[i]}.short = trunc i32 {arguments[0]} to i16")
                lines.append(f"  {names[i]}.half = bitcast i16 {names[i]}.short to half")
                arguments = [f"{names[i]}.half"]
            lines.append(f"  {names[i]} = {_instruction(operation, arguments, real, lanes)}")
    for name, line in record.outputs.items():
        kind = _kind("i32" if record.lines[line][0] in _INTEGERS else real, lanes)
        lines.append(f"  %{name}.{suffix} = bitcast {kind} {names[line]} to {kind}")
    return lines


def _literal(value: float, real: str) -> str:
    # LLVM writes a float as the bits of the double of the same value.
    rounded = float(np.float32(value)) if real == "float" else value
    return f"0x{struct.unpack('>Q', struct.pack('>d', rounded))[0]:016X}"


def _kind(kind: str, lanes: int) -> str:
    return f"<{lanes} x {kind}>" if lanes else kind


def _all(lanes: int, kind: str, constant: str) -> str:
    """Return a constant, of each element where there are lanes."""
    return f"<{', '.join([f'{kind} {constant}'] * lanes)}>" if lanes else constant


def _instruction(operation: str, arguments: list[str], real: str, lanes: int) -> str:
    if operation in _INTEGERS or operation in _INTEGER_COMPARE:
        return _integer_instruction(operation, arguments, lanes)
    real = _kind(real, lanes)
    if operation in _BINARY:
        return f"{_BINARY[operation]} {real} {arguments[0]}, {arguments[1]}"
    if operation in _COMPARE:
        return f"fcmp {_COMPARE[operation]} {real} {arguments[0]}, {arguments[1]}"
    if operation in _CALLS:
        suffix = "f32" if real == "float" else "f64"
        operands = ", ".join(f"{real} {argument}" for argument in arguments)
        return f"call {real} @llvm.{_CALLS[operation]}.{suffix}({operands})"
    if operation == "neg":
        return f"fneg {real} {arguments[0]}"
    if operation == "real":
        return f"bitcast {_kind('i32', lanes)} {arguments[0]} to {real}"
    if operation == "number":
        return f"sitofp {_kind('i32', lanes)} {arguments[0]} to {real}"
    if operation in ("float16", "from_float16"):
        return f"fpext half {arguments[0]} to {real}"
    condition, yes, no = arguments
    return f"select i1 {condition}, {real} {yes}, {real} {no}"


def _integer_instruction(operation: str, arguments: list[str], lanes: int) -> str:
    whole = _kind("i32", lanes)
    if operation in _INTEGER_BINARY:
        return f"{_INTEGER_BINARY[operation]} {whole} {arguments[0]}, {arguments[1]}"
    if operation in _INTEGER_COMPARE:
        return f"icmp {_INTEGER_COMPARE[operation]} {whole} {arguments[0]}, {arguments[1]}"
    if operation in _INTEGER_CALLS:
        suffix = f"v{lanes}i32" if lanes else "i32"
        called = f"@llvm.{_INTEGER_CALLS[operation]}.{suffix}"
        return f"call {whole} {called}({whole} {arguments[0]}, {whole} {arguments[1]})"
    if operation == "bits":
        return f"bitcast {_kind('float', lanes)} {arguments[0]} to {whole}"
    condition, yes, no = arguments
    return f"select {_kind('i1', lanes)} {condition}, {whole} {yes}, {whole} {no}"


def from_stored(raw: str, value: str, codec: Codec, real: str) -> list[str]:
    """Return how `value`, a number of the type `real`, comes from a stored one of a plain codec."""
    if codec.name == "bfloat16":
        return [
            f"  {value}.wide = zext i16 {raw} to i32",
            f"  {value}.bits = shl i32 {value}.wide, 16",
            f"  {value}.float = bitcast i32 {value}.bits to float",
            _convert(f"{value}.float", value, "float", real),
        ]
    return [_convert(raw, value, TYPES[codec.name], real)]


def to_stored(value: str, raw: str, codec: Codec, real: str) -> list[str]:
    """Return how the stored form of a plain codec comes from `value`: to nearest, ties to even."""
    if codec.name == "bfloat16":
        # On the bits: add half of the last place kept, less one if it is even.
        return [
            _convert(value, f"{raw}.float", real, "float"),
            f"  {raw}.bits = bitcast float {raw}.float to i32",
            f"  {raw}.shifted = lshr i32 {raw}.bits, 16",
            f"  {raw}.odd = and i32 {raw}.shifted, 1",
            f"  {raw}.half = add i32 {raw}.odd, 32767",
            f"  {raw}.up = add i32 {raw}.bits, {raw}.half",
            f"  {raw}.rounded = lshr i32 {raw}.up, 16",
            f"  {raw}.nan = fcmp uno float {raw}.float, {raw}.float",
            f"  {raw}.chosen = select i1 {raw}.nan, i32 32704, i32 {raw}.rounded",
            f"  {raw} = trunc i32 {raw}.chosen to i16",
        ]
    return [_convert(value, raw, real, TYPES[codec.name])]


def cut_to_stored(value: str, raw: str, codec: Codec, real: str) -> list[str]:
    """Return the stored form of a 16-bit codec of a `value` that it holds exactly."""
    if codec.name == "bfloat16":
        return [
            f"  {raw}.bits = bitcast float {value} to i32",
            f"  {raw}.shifted = lshr i32 {raw}.bits, 16",
            f"  {raw} = trunc i32 {raw}.shifted to i16",
        ]
    return to_stored(value, raw, codec, real)


_WIDTH = {"half": 16, "float": 32, "double": 64}


def _convert(value: str, result: str, have: str, want: str) -> str:
    if have == want:
        return f"  {result} = bitcast {have} {value} to {want}"
    operation = "fpext" if _WIDTH[have] < _WIDTH[want] else "fptrunc"
    return f"  {result} = {operation} {have} {value} to {want}"


def words(names: Sequence[str], *, numbers: str = "", reals: str = "", table: str = "%table") -> str:
    """Return the lines that load the words of a table.

    Args:
        names: of the words, and then of what they are: addresses, if nothing else is said.
        numbers: the names of those that are integers.
        reals: the names of those that are float64.
        table: the pointer to the table.
    """
    kinds = dict.fromkeys(numbers.split(), "i64") | dict.fromkeys(reals.split(), "double")
    return "\n".join(
        f"  %{name}.at = getelementptr i64, ptr {table}, i64 {i}\n"
        f"  %{name} = load {kinds.get(name, 'ptr')}, ptr %{name}.at"
        for i, name in enumerate(names)
    )
