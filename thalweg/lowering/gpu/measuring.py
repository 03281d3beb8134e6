"""The texts of the kernels that take measures: a sum for each chunk, then one for each tensor."""

from __future__ import annotations

from thalweg.lowering import passes
from thalweg.lowering.gpu import means
from thalweg.lowering.gpu.elements import (
    SHARED,
    constants,
    fetch,
    gradient,
    indented,
    input_of,
    load,
    over_tiles,
    place,
    start,
    walked,
)
from thalweg.lowering.gpu.expressions import lines
from thalweg.lowering.spec import Spec
from thalweg.lowering.trace import Trace
from thalweg.storage.codecs.plain import dtype_name

MEASURED = 4096
"""Elements of a chunk of a measure."""


def measure(spec: Spec, aligned: bool) -> str:
    """Return the kernel that takes the measures of `spec.stage`, a sum for each chunk; 0 without gradient.

    Args:
        spec: of the stage.
        aligned: as for `step`.
    """
    names = [one.name for one in spec.measures]
    return _MEASURE.format(
        shared=SHARED.format(**constants(spec)),
        place=place(spec),
        starts=indented(4, [line for i, one in enumerate(spec.streams) for line in start(i, one, aligned)]),
        own=f"own = sums + tl.program_id(0) * {len(names)}",
        mean=means.before_tiles(spec),
        zeros=indented(4, [f"{name}_sum = tl.zeros((BLOCKS, BLOCK), tl.float64)" for name in names]),
        tiles=over_tiles(_measured_tile(spec, ""), _measured_tile(spec, "mask")),
        store=indented(
            4,
            [
                f"tl.store(own + {i}, tl.sum(tl.sum({name}_sum, axis=1), axis=0))"
                for i, name in enumerate(names)
            ],
        ),
    )


def _measured_tile(spec: Spec, mask: str) -> list[str]:
    real = dtype_name(spec.compute)
    record = passes.measures(spec.recipe, spec.stage, dict(spec.on), spec.scalars, spec.codecs)
    used = {name.partition(".")[0] for name in record.inputs}
    found = [
        fetch(stream, "raw", mask=mask) for stream in walked(spec) if stream.name.partition(".")[0] in used
    ]
    for name, codec in spec.stored.items():
        if name in used and name not in spec.by_row:
            found += load(name, codec, real)
    if "g" in used:
        found += gradient(spec, real, mask)
    found += lines(record, real, input_of)
    for one in spec.measures:
        found.append(f"{one.name}_exact = {_exact(one.name, record, mask)}")
        square = f"{one.name}_exact * {one.name}_exact" if one.squared else f"{one.name}_exact"
        found.append(f"{one.name}_sum += {square}")
    return found


def _exact(name: str, record: Trace, mask: str) -> str:
    """Return a summand in float64, 0 where there is no element."""
    if mask:
        return f"tl.where({mask}, {name}_new, 0.0).to(tl.float64)"
    is_number = record.lines[record.outputs[name]][0] == "const"
    return f"{name}_new" if is_number else f"{name}_new.to(tl.float64)"


SUMMED = 1024
"""Chunks whose sums are added at once."""


def totals(columns: int) -> str:
    """Return the kernel that adds up what chunks have measured, one program for each tensor and column.

    Args:
        columns: how many measures there are.
    """
    return _TOTALS.format(columns=columns, summed=SUMMED)


_MEASURE = """\
{shared}
@triton.jit(do_not_specialize=["tensors"])
def measure(addresses, chunks, rows, sums, tensors):
{place}
{starts}
    lane = tl.arange(0, BLOCK)[None, :]
    {own}
{zeros}
    if tl.load(addresses + tensors + tensor) != 0:
        block = tl.arange(0, BLOCKS)[:, None]
        index = block * BLOCK + lane
{mean}
{tiles}
{store}
"""


_TOTALS = """\
SUMMED = tl.constexpr({summed})


@triton.jit(do_not_specialize=["first", "stride"])
def totals(sums, begins, others, other_begins, measures, first, stride):
    tensor, column = tl.program_id(0), tl.program_id(1)
    lanes = tl.arange(0, SUMMED)
    found = tl.zeros((SUMMED,), tl.float64)
    end = tl.load(begins + tensor + 1)
    begin = tl.load(begins + tensor)
    while begin < end:
        at = begin + lanes
        found += tl.load(sums + at * {columns} + column, mask=at < end, other=0.0)
        begin += SUMMED
    end = tl.load(other_begins + tensor + 1)
    begin = tl.load(other_begins + tensor)
    while begin < end:
        at = begin + lanes
        found += tl.load(others + at * {columns} + column, mask=at < end, other=0.0)
        begin += SUMMED
    tl.store(measures + tensor * stride + first + column, tl.sum(found, axis=0))
"""
