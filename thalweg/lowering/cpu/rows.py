"""How a kernel goes through a chunk row by row, where something is kept by row.

A row is gone over twice: first for the mean of its squares, and then, while it lies in the processor's cache,
for its elements. What is kept by row is read once before and written once after. No other thread has a part
of the row, so nothing has to be waited for.
"""

from __future__ import annotations

from thalweg.lowering.cpu import measuring
from thalweg.lowering.cpu.elements import (
    input_of,
    load_bases,
    load_elements,
    loop,
    prepare_gradient,
    real,
    squares,
    streams,
)
from thalweg.lowering.cpu.instructions import TYPES, arithmetic, from_stored, to_stored
from thalweg.lowering.spec import Spec

END = "row.done"
"""The label that the loops over a row's elements end at."""


def over_rows(spec: Spec, elements: str) -> str:
    """Return the loop over the rows of a chunk.

    Args:
        spec: the kernel's.
        elements: the loops over `%length` elements, from the label `tensor.row` to `END`.
    """
    begin = [*measuring.places(spec), *measuring.zeros(spec)] if spec.stage else []
    row = [*load_bases(spec), *_load(spec), *_mean(spec)]
    end = [] if spec.stage or spec.draws else stores(spec)
    return _ROWS.format(
        begin="\n".join(begin), row="\n".join(row), elements=elements, stores="\n".join(end), end=END
    )


def stores(spec: Spec) -> list[str]:
    """Return how what is kept by row is written, after a loop over its elements."""
    lines = []
    for name, codec in spec.by_row.items():
        lines += to_stored(f"%{name}.new", f"%{name}.out", codec, real(spec))
        lines.append(f"  store {TYPES[codec.name]} %{name}.out, ptr %{name}.base")
    return lines


def mean_function(spec: Spec) -> str:
    """Return the function of the mean of a row's squares; nothing, if nobody asks for it."""
    record = squares(spec)
    if record is None:
        return ""
    kind = real(spec)
    body = [
        *load_elements(spec),
        *prepare_gradient(spec._replace(stage="clipped")),  # it only reads
        *arithmetic(record, kind, input_of),
        *measuring.add("square", False, kind),
    ]
    phi = "  %square.sum = phi double [ 0.0, %begin ], [ %square.sum.next, %element ]"
    return _MEAN.format(
        parameters=", ".join(["i64 %length", *_arguments(spec)]),
        loop=loop("begin", "return", [phi], body),
        real=kind,
        cut="fptrunc double %mean to float" if kind == "float" else "fadd double %mean, -0.0",
    )


def _load(spec: Spec) -> list[str]:
    lines = []
    for name, codec in spec.by_row.items():
        lines.append(f"  %{name}.raw = load {TYPES[codec.name]}, ptr %{name}.base")
        lines += from_stored(f"%{name}.raw", f"%{name}.in", codec, real(spec))
    return lines


def _mean(spec: Spec) -> list[str]:
    if squares(spec) is None:
        return []
    arguments = ", ".join(["i64 %length", *_arguments(spec)])
    return [f"  %row.mean = call {real(spec)} @row.mean({arguments})"]


def _arguments(spec: Spec) -> list[str]:
    return [
        *(f"{real(spec)} %s.{name}" for name in spec.columns),
        *(f"ptr %{name}.base" for name, _, _ in streams(spec)),
    ]


_ROWS = """\
  %length.at.row = getelementptr i64, ptr %fields, i64 4
  %length = load i64, ptr %length.at.row
{begin}
  br label %tensor.row

tensor.row:
  %in.chunk = phi i64 [ 0, %tensor.rows ], [ %in.chunk.next, %{end} ]
  %offset = add i64 %chunk.offset, %in.chunk
  %offset.g = add i64 %chunk.offset.g, %in.chunk
{row}
{elements}
{end}:
{stores}
  %in.chunk.next = add nuw nsw i64 %in.chunk, %length
  %rows.left = icmp ult i64 %in.chunk.next, %chunk.length
  br i1 %rows.left, label %tensor.row, label %finish
"""

_MEAN = """
define internal {real} @row.mean({parameters}) alwaysinline {{
begin:
{loop}
return:
  %count = uitofp i64 %length to double
  %mean = fdiv double %square.sum.next, %count
  %mean.cut = {cut}
  ret {real} %mean.cut
}}
"""
