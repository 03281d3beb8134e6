"""The CPU lowering: a traced rule becomes one LLVM function that steps any number of tensors.

A launch takes a table of addresses (one row for `p`, `g` and each slot, one column for each tensor), a
table of chunks, the scalars in rows, and for each tensor its row. Threads claim tasks, runs of chunks,
until none is left.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch

from thalweg.chunks import Chunks
from thalweg.codecs import Codec
from thalweg.lowering import machine, threads
from thalweg.lowering.trace import Trace, trace
from thalweg.rule import Rule

# `contract` lets a multiplication and an addition become one instruction. Nothing else is allowed:
# reciprocal estimates turn 0/inf into NaN, and NaN and inf have to travel.
_FAST = "contract"

_BINARY = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_COMPARE = {"lt": "olt", "gt": "ogt"}
_CALLS = {"sqrt": "sqrt", "abs": "fabs", "max": "maximum"}
_TYPES = {"float64": "double", "float32": "float", "float16": "half", "bfloat16": "i16"}

# Below this many elements a second thread costs more than it brings.
SERIAL = 32_768


class Spec(NamedTuple):
    """All that the code of a kernel depends on; the same spec is the same machine code.

    Args:
        rule: the update rule.
        on: its flags, as (name, value) pairs.
        scalars: the names of a row's columns.
        p: the codec of the parameters.
        g: the codec of the gradients.
        slots: the codecs of the slots, in order.
        maximize: whether gradients are negated.
        unscale: whether gradients are multiplied by the row's last column and written back.
    """

    rule: Rule
    on: tuple[tuple[str, bool], ...]
    scalars: tuple[str, ...]
    p: Codec
    g: Codec
    slots: tuple[Codec, ...]
    maximize: bool
    unscale: bool


def supports(codec: Codec | None) -> bool:
    """Say whether this processor's kernels read and write `codec`."""
    if codec is None:
        return False
    features = machine.host()[1]
    return codec.name != "float16" or "+f16c" in features or "+fullfp16" in features


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel. `dtype` is the type of a row of scalars."""

    address: int
    dtype: type


class Launch:
    """A kernel and the tables of one batch, ready to run again and again.

    Args:
        kernel: the kernel.
        addresses: int64 (streams, tensors), where the first elements of `p`, `g`, slots lie. Read at
            every run.
        chunks: the work.
        rows: (rows, scalars) of the kernel's dtype. Read at every run.
        row_of: int64 (tensors,), the row of each tensor. Read at every run.
    """

    def __init__(
        self,
        kernel: Kernel,
        addresses: np.ndarray,
        chunks: Chunks,
        rows: np.ndarray,
        row_of: np.ndarray,
    ) -> None:
        self._kernel = kernel
        self._tables = (addresses, chunks, rows, row_of)  # what the descriptor points into
        self._tasks = len(chunks.tasks) - 1
        self._serial = chunks.elements <= SERIAL
        self._descriptor = (ctypes.c_int64 * 8)(
            0,
            self._tasks,
            chunks.tasks.ctypes.data,
            chunks.table.ctypes.data,
            addresses.ctypes.data,
            addresses.shape[1],
            rows.ctypes.data,
            row_of.ctypes.data,
        )
        self._argument = ctypes.addressof(self._descriptor)

    def run(self) -> None:
        """Step all tensors of the batch."""
        self._descriptor[0] = 0  # no task is claimed
        count = 1 if self._serial else min(torch.get_num_threads(), self._tasks)
        if count > 1:
            threads.parallel()(self._kernel.address, self._argument, count)
        else:
            _call(self._kernel.address)(self._argument)


@cache
def _call(address: int) -> ctypes._CFuncPtr:  # type: ignore[name-defined]
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)


@cache
def kernel(spec: Spec) -> Kernel:
    """Return the kernel of `spec`, compiled, or loaded from the cache."""
    (address,) = machine.compile_to_address(assembly(spec), ("step",))
    return Kernel(address, np.float64 if spec.p.compute == torch.float64 else np.float32)


class _Stream(NamedTuple):
    name: str
    codec: Codec
    written: bool


def assembly(spec: Spec) -> str:
    """Return the kernel of `spec` as LLVM assembly."""
    record = trace(spec.rule, dict(spec.on), spec.scalars)
    real = _TYPES["float64" if spec.p.compute == torch.float64 else "float32"]
    names = [slot.name for slot in spec.rule.slots_on(dict(spec.on))]
    streams = [_Stream("p", spec.p, True), _Stream("g", spec.g, spec.unscale)]
    streams += [_Stream(n, codec, True) for n, codec in zip(names, spec.slots, strict=True)]
    columns = [*spec.scalars, "unscale"] if spec.unscale else list(spec.scalars)
    body = [
        *_load_elements(streams, real),
        *_prepare_gradient(spec, real),
        *_arithmetic(record, real),
        *_store_elements(streams, record, real),
    ]
    return _SKELETON.format(
        rule=spec.rule.name,
        real=real,
        columns=len(columns),
        chunk="\n".join(_load_row(columns, real) + _load_bases(streams)),
        element="\n".join(body),
    )


def _load_row(columns: Sequence[str], real: str) -> list[str]:
    return [
        line
        for i, name in enumerate(columns)
        for line in (
            f"  %s.{name}.at = getelementptr {real}, ptr %row, i64 {i}",
            f"  %s.{name} = load {real}, ptr %s.{name}.at",
        )
    ]


def _load_bases(streams: Sequence[_Stream]) -> list[str]:
    lines = []
    for i, (name, codec, _) in enumerate(streams):
        offset = "%offset.g" if name == "g" else "%offset"
        lines += [
            f"  %{name}.cell.index = mul i64 %tensors, {i}",
            f"  %{name}.cell.tensor = add i64 %{name}.cell.index, %tensor",
            f"  %{name}.cell = getelementptr ptr, ptr %addresses, i64 %{name}.cell.tensor",
            f"  %{name}.start = load ptr, ptr %{name}.cell",
            f"  %{name}.base = getelementptr {_TYPES[codec.name]}, ptr %{name}.start, i64 {offset}",
        ]
    return lines


def _load_elements(streams: Sequence[_Stream], real: str) -> list[str]:
    lines = []
    for name, codec, _ in streams:
        stored = _TYPES[codec.name]
        lines += [
            f"  %{name}.at = getelementptr {stored}, ptr %{name}.base, i64 %i",
            f"  %{name}.raw = load {stored}, ptr %{name}.at, !llvm.access.group !0",
            *_decode(f"%{name}.raw", f"%{name}.in", codec, real),
        ]
    return lines


def _decode(raw: str, value: str, codec: Codec, real: str) -> list[str]:
    if codec.name == "bfloat16":
        return [
            f"  {value}.wide = zext i16 {raw} to i32",
            f"  {value}.bits = shl i32 {value}.wide, 16",
            f"  {value}.float = bitcast i32 {value}.bits to float",
            _convert(f"{value}.float", value, "float", real),
        ]
    return [_convert(raw, value, _TYPES[codec.name], real)]


def _encode(value: str, raw: str, codec: Codec, real: str) -> list[str]:
    if codec.name == "bfloat16":
        # To nearest, ties to even, on the bits: add half of the last place kept, less one if it is even.
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
    return [_convert(value, raw, real, _TYPES[codec.name])]


_WIDTH = {"half": 16, "float": 32, "double": 64}


def _convert(value: str, result: str, have: str, want: str) -> str:
    if have == want:
        return f"  {result} = bitcast {have} {value} to {want}"
    operation = "fpext" if _WIDTH[have] < _WIDTH[want] else "fptrunc"
    return f"  {result} = {operation} {have} {value} to {want}"


def _prepare_gradient(spec: Spec, real: str) -> list[str]:
    lines, g = [], "%g.in"
    if spec.unscale:
        lines.append(f"  %g.unscaled = fmul {real} {g}, %s.unscale")
        lines += _encode("%g.unscaled", "%g.out", spec.g, real)
        lines.append(f"  store {_TYPES[spec.g.name]} %g.out, ptr %g.at, !llvm.access.group !0")
        g = "%g.unscaled"
    sign = "fneg" if spec.maximize else "bitcast"
    lines.append(f"  %g.used = {sign} {real} {g}" + ("" if spec.maximize else f" to {real}"))
    return lines


def _arithmetic(record: Trace, real: str) -> list[str]:
    names: list[str] = []
    lines: list[str] = []
    for i, (operation, *operands) in enumerate(record.lines):
        if operation == "input":
            names.append(_input(operands[0]))
            continue
        if operation == "const":
            names.append(_literal(operands[0], real))
            continue
        names.append(f"%v{i}")
        arguments = [names[operand] for operand in operands]
        lines.append(f"  %v{i} = {_instruction(operation, arguments, real)}")
    lines += [
        f"  %{name}.new = bitcast {real} {names[line]} to {real}" for name, line in record.outputs.items()
    ]
    return lines


def _input(name: str) -> str:
    if name == "g":
        return "%g.used"
    return f"%{name}" if name.startswith("s.") else f"%{name}.in"


def _literal(value: float, real: str) -> str:
    # LLVM writes a float as the bits of the double of the same value.
    rounded = float(np.float32(value)) if real == "float" else value
    return f"0x{struct.unpack('>Q', struct.pack('>d', rounded))[0]:016X}"


def _instruction(operation: str, arguments: list[str], real: str) -> str:
    if operation in _BINARY:
        return f"{_BINARY[operation]} {_FAST} {real} {arguments[0]}, {arguments[1]}"
    if operation in _COMPARE:
        return f"fcmp {_COMPARE[operation]} {real} {arguments[0]}, {arguments[1]}"
    if operation in _CALLS:
        suffix = "f32" if real == "float" else "f64"
        operands = ", ".join(f"{real} {argument}" for argument in arguments)
        return f"call {real} @llvm.{_CALLS[operation]}.{suffix}({operands})"
    if operation == "neg":
        return f"fneg {real} {arguments[0]}"
    condition, yes, no = arguments
    return f"select i1 {condition}, {real} {yes}, {real} {no}"


def _store_elements(streams: Sequence[_Stream], record: Trace, real: str) -> list[str]:
    lines = []
    for name, codec, _ in streams:
        if name == "g":
            continue
        lines += _encode(f"%{name}.new", f"%{name}.out", codec, real)
        lines.append(f"  store {_TYPES[codec.name]} %{name}.out, ptr %{name}.at, !llvm.access.group !0")
    return lines


# The access group promises the vectorizer that elements do not depend on each other, which spares it
# a check of all pairs of streams before every chunk.
_SKELETON = """\
; {rule}
declare float @llvm.sqrt.f32(float)
declare double @llvm.sqrt.f64(double)
declare float @llvm.fabs.f32(float)
declare double @llvm.fabs.f64(double)
declare float @llvm.maximum.f32(float, float)
declare double @llvm.maximum.f64(double, double)

define void @step(ptr %descriptor) {{
entry:
  %tasks.count.at = getelementptr i64, ptr %descriptor, i64 1
  %tasks.count = load i64, ptr %tasks.count.at
  %tasks.at = getelementptr i64, ptr %descriptor, i64 2
  %tasks = load ptr, ptr %tasks.at
  %chunks.at = getelementptr i64, ptr %descriptor, i64 3
  %chunks = load ptr, ptr %chunks.at
  %addresses.at = getelementptr i64, ptr %descriptor, i64 4
  %addresses = load ptr, ptr %addresses.at
  %tensors.at = getelementptr i64, ptr %descriptor, i64 5
  %tensors = load i64, ptr %tensors.at
  %rows.at = getelementptr i64, ptr %descriptor, i64 6
  %rows = load ptr, ptr %rows.at
  %row.of.at = getelementptr i64, ptr %descriptor, i64 7
  %row.of = load ptr, ptr %row.of.at
  br label %claim

claim:
  %task = atomicrmw add ptr %descriptor, i64 1 monotonic
  %left = icmp slt i64 %task, %tasks.count
  br i1 %left, label %begin, label %done

begin:
  %first.at = getelementptr i64, ptr %tasks, i64 %task
  %first = load i64, ptr %first.at
  %last.at = getelementptr i64, ptr %first.at, i64 1
  %last = load i64, ptr %last.at
  br label %chunk

chunk:
  %c = phi i64 [ %first, %begin ], [ %c.next, %finish ]
  %fields = getelementptr [4 x i64], ptr %chunks, i64 %c
  %tensor = load i64, ptr %fields
  %offset.at = getelementptr i64, ptr %fields, i64 1
  %offset = load i64, ptr %offset.at
  %offset.g.at = getelementptr i64, ptr %fields, i64 2
  %offset.g = load i64, ptr %offset.g.at
  %length.at = getelementptr i64, ptr %fields, i64 3
  %length = load i64, ptr %length.at
  %row.index.at = getelementptr i64, ptr %row.of, i64 %tensor
  %row.index = load i64, ptr %row.index.at
  %row = getelementptr [{columns} x {real}], ptr %rows, i64 %row.index
{chunk}
  br label %element

element:
  %i = phi i64 [ 0, %chunk ], [ %i.next, %element ]
{element}
  %i.next = add nuw nsw i64 %i, 1
  %end = icmp eq i64 %i.next, %length
  br i1 %end, label %finish, label %element, !llvm.loop !1

finish:
  %c.next = add nuw nsw i64 %c, 1
  %chunks.left = icmp slt i64 %c.next, %last
  br i1 %chunks.left, label %chunk, label %claim

done:
  ret void
}}

!0 = distinct !{{}}
!1 = distinct !{{!1, !2, !3}}
!2 = !{{!"llvm.loop.parallel_accesses", !0}}
!3 = !{{!"llvm.loop.vectorize.enable", i1 true}}
"""
