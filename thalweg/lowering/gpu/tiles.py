"""A GPU kernel's text: the passes of `passes.py` on tiles of blocks of 64 elements.

A program steps a chunk, which is at most a tile: as many elements as it holds in registers at once. So what
is stored in blocks is packed where it was computed, without a second pass. A second kernel advances the
counters and works out the rows of scalars, one for each tensor, so that a step needs nothing of the host
but hyperparameters.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from thalweg.lowering import passes
from thalweg.lowering.gpu.expressions import lines, plain
from thalweg.lowering.spec import Spec, Stream
from thalweg.lowering.trace import Trace
from thalweg.rule import Recipe
from thalweg.storage.codecs import BLOCK, BlockCodec, Codec, HalfCodec, draws
from thalweg.storage.codecs.draws import distance, numbers
from thalweg.storage.codecs.plain import dtype_name

TILE = 1024
"""Elements of a tile: most of a chunk."""

TILE_IN_BLOCKS = 512
"""The same where something is stored in blocks: their arithmetic, not memory, is the limit, and the registers
that fewer elements leave let more programs run at once (`benchmarks/gpu_tiles.py`)."""

MEASURED = 4096
"""Elements of a chunk of a measure."""

LENGTH_BITS = 13
"""Bits for the length of a chunk; those for the high parts of its two offsets share the rest of 31."""

HIGH_BITS = (31 - LENGTH_BITS) // 2

WIDTH = 128
"""Tensors whose rows one program works out."""


class Kind(NamedTuple):
    """What the code that makes rows depends on beside the rule and its choices.

    Args:
        real: the dtype of a row, `float32` or `float64`.
        counter: the dtype of counters.
        unscale: whether a row ends with the inverse of GradScaler's scale.
        draws: whether keys are needed.
    """

    real: str
    counter: str
    unscale: bool
    draws: bool


def packed(table: np.ndarray) -> np.ndarray:
    """Return a table of chunks in half the bytes, for a kernel to read.

    Args:
        table: int64 (chunks, 4), as `Chunks.table`; lengths below 2^13, offsets below 2^41.

    Returns:
        int32 (chunks, 4): tensor, low halves of offset and offset in the gradient, and in one number length
        and the high parts of the offsets.
    """
    tensor, offset, offset_g, length = table.T
    high, high_g = offset >> 32, offset_g >> 32
    assert np.maximum(high, high_g).max(initial=0) < 1 << HIGH_BITS, "a tensor beyond 2^41 elements"
    rest = length | high << LENGTH_BITS | high_g << (LENGTH_BITS + HIGH_BITS)
    return np.stack([tensor, offset, offset_g, rest], axis=1).astype(np.uint32).view(np.int32)


def step(spec: Spec, aligned: bool) -> str:
    """Return the kernel of `spec`.

    Args:
        spec: what it does.
        aligned: whether all memory begins at multiples of 16 bytes, as chunks of dense tensors then do.
    """
    streams = spec.streams
    return _STEP.format(
        shared=_SHARED.format(**_constants(spec)),
        place=_PLACE.format(
            **_constants(spec),
            row=_indented(4, [f"s_{name} = tl.load(row + {i})" for i, name in enumerate(spec.columns)]),
        ),
        starts=_indented(4, [line for i, one in enumerate(streams) for line in _start(i, one, aligned)]),
        whole=_indented(12, _tile(spec, "")),
        rest=_indented(12, _tile(spec, "mask")),
    )


def measure(spec: Spec, aligned: bool) -> str:
    """Return the kernel that takes the measures of `spec.stage`, a sum for each chunk; 0 without gradient.

    Args:
        spec: of the stage.
        aligned: as for `step`.
    """
    names = [one.name for one in spec.measures]
    return _MEASURE.format(
        shared=_SHARED.format(**_constants(spec)),
        place=_PLACE.format(
            **_constants(spec),
            row=_indented(4, [f"s_{name} = tl.load(row + {i})" for i, name in enumerate(spec.columns)]),
        ),
        starts=_indented(4, [line for i, one in enumerate(spec.streams) for line in _start(i, one, aligned)]),
        own=f"own = sums + tl.program_id(0) * {len(names)}",
        zeros=_indented(4, [f"{name}_sum = tl.zeros((BLOCKS, BLOCK), tl.float64)" for name in names]),
        whole=_indented(12, _measured_tile(spec, "")),
        rest=_indented(12, _measured_tile(spec, "mask")),
        store=_indented(
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
    found = []
    for name, codec in spec.stored.items():
        if name in used:
            found += _load(name, codec, real, mask)
    if "g" in used:
        found += _gradient(spec, real, mask)
    found += lines(record, real, _input)
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


def tile_of(spec: Spec) -> int:
    """Return the elements of a tile of a kernel, of weights at least 16 bytes for each thread."""
    return TILE_IN_BLOCKS if spec.blocks and spec.p.dtype == torch.float32 else TILE


def _constants(spec: Spec) -> dict[str, Any]:
    return {
        "rule": spec.recipe.name,
        "tile": tile_of(spec),
        "blocks": tile_of(spec) // BLOCK,
        "length_bits": LENGTH_BITS,
        "high_bits": HIGH_BITS,
        "block": BLOCK,
        "columns": len(spec.columns),
    }


def _indented(depth: int, found: list[str]) -> str:
    return "\n".join(" " * depth + line for line in found)


def _start(index: int, stream: Stream, aligned: bool) -> list[str]:
    at = f"{plain(stream.name)}_at"
    offset = "offset_g" if stream.name == "g" else "offset"
    if stream.shared > 1:
        offset = f"{offset} // {stream.shared}"
    pointer = f"tl.pointer_type(tl.{_kept(stream.stored)})"
    found = [f"{at} = tl.load(addresses + {index} * tensors + tensor).to({pointer}) + {offset}"]
    if aligned and stream.shared == 1:
        found.append(f"{at} = tl.multiple_of({at}, 16)")
    return found


def _tile(spec: Spec, mask: str) -> list[str]:
    """Return what is done with one tile; `mask` names what says which elements there are, if not all."""
    real = dtype_name(spec.compute)
    found = _words(spec)
    for name, codec in spec.stored.items():
        found += _load(name, codec, real, mask)
    found += _gradient(spec, real, mask)
    record = passes.element(spec.recipe, dict(spec.on), spec.scalars, spec.codecs)
    found += lines(record, real, _input)
    for name, codec in spec.codecs.items():
        if name not in spec.blocks:
            found += _store(name, codec, mask)
    return found + _store_blocks(spec, mask) if spec.blocks else found


def _words(spec: Spec) -> list[str]:
    if not spec.draws:
        return []
    found = ["start = first_index + block * BLOCK"]
    found += lines(passes.words(spec.codecs), "float32", plain, prefix="w", suffix="_first")
    for name, number in numbers(spec.codecs).items():
        step_of = distance(number, spec.codecs[name].drawn)
        found.append(f"word_{number} = word_{number}_first + lane * {step_of}")
    return found


def _input(name: str) -> str:
    if name == "g":
        return "g_used"
    return plain(name) if "." in name else f"{name}_in"


def _masked(mask: str, other: bool = True) -> str:
    return f", mask={mask}, other=0" if mask and other else f", mask={mask}" if mask else ""


def _load(name: str, codec: Codec, real: str, mask: str) -> list[str]:
    raw = f"tl.load({name}_at + index{_masked(mask)})"
    if isinstance(codec, BlockCodec):
        scale = f"tl.load({name}_side_at + block{_masked(mask and 'blocks_mask')})"
        return [
            f"{name}_code = {raw}.to(tl.int32)",
            f"{name}_scale = {scale}.to(tl.int32)",
            *lines(passes.unit(name, codec), "float32", plain, prefix=f"{name}_u", suffix=""),
        ]
    found = [f"{name}_in = {_value(raw, codec.name, real)}"]
    if codec.side is not None:
        found.append(f"{name}_side = tl.load({name}_side_at + index{_masked(mask)}).to(tl.int32)")
    return found


def _kept(stored: str) -> str:
    """Return the dtype that memory is read as: bfloat16 as bits; Triton's interpreter rounds it wrongly."""
    return "int16" if stored == "bfloat16" else stored


def _value(raw: str, stored: str, real: str) -> str:
    return f"bfloat16_value({raw}).to(tl.{real})" if stored == "bfloat16" else f"{raw}.to(tl.{real})"


def _nearest(value: str, stored: str) -> str:
    return f"bfloat16_nearest({value}.to(tl.float32))" if stored == "bfloat16" else f"{value}.to(tl.{stored})"


def _gradient(spec: Spec, real: str, mask: str) -> list[str]:
    found = []
    if spec.unscale:
        found.append("g_in = g_in * s_unscale")
    if spec.unscale and not spec.stage:
        found += [
            f"tl.store(g_at + index, {_nearest('g_in', spec.g.name)}{_masked(mask, other=False)})",
        ]
    return [*found, f"g_used = {'-' if spec.maximize else ''}g_in"]


def _store(name: str, codec: Codec, mask: str) -> list[str]:
    where = _masked(mask, other=False)
    new = f"{name}_new"
    exact = isinstance(codec, HalfCodec) and codec.name == "bfloat16"
    kept = f"bfloat16_cut({new})" if exact else _nearest(new, codec.name)
    found = [f"tl.store({name}_at + index, {kept}{where})"]
    if codec.side is not None:
        side = f"{name}_side_new.to(tl.{dtype_name(codec.side)})"
        found.append(f"tl.store({name}_side_at + index, {side}{where})")
    return found


def _store_blocks(spec: Spec, mask: str) -> list[str]:
    """Return how what is in blocks is packed: all of a block's elements are in the tile."""
    found = []
    for name, codec in spec.blocks.items():
        record = passes.finite_size(codec)
        found += lines(record, "float32", {"value": f"{name}_new"}.__getitem__, prefix=f"{name}_f", suffix="")
        size = f"tl.where({mask}, size, 0)" if mask else "size"
        found.append(f"{name}_largest = tl.max({size}, axis=1, keep_dims=True)")
        record = passes.new_anchor(name, codec)
        found += lines(record, "float32", plain, prefix=f"{name}_n", suffix="")
    found += lines(passes.pack(spec.codecs), "float32", _packed_input, prefix="k", suffix="")
    for name, codec in spec.blocks.items():
        code, scale = f"{name}_code.to(tl.{codec.name})", f"{name}_scale.to(tl.uint8)"
        scale_at = f"{name}_side_at + block"
        found += [
            f"tl.store({name}_at + index, {code}{_masked(mask, other=False)})",
            f"tl.store({scale_at}, {scale}{_masked(mask and 'blocks_mask', other=False)})",
        ]
    return found


def _packed_input(name: str) -> str:
    return plain(name) if "." in name else f"{name}_new"


def rows(recipe: Recipe, choices: Mapping[str, bool], kind: Kind) -> str:
    """Return the kernel that advances counters and works out rows.

    Args:
        recipe: what steps are made by.
        choices: the hyperparameters that are flags.
        kind: what else it depends on.
    """
    advance, scalars = passes.counters(recipe, choices), passes.scalars(recipe, choices)
    old = [f"{c.name}_at = {_counter_at(i, kind)}" for i, c in enumerate(recipe.counters)]
    old += [f"{c.name} = tl.load({c.name}_at, mask=mask, other=0.0).to(tl.float64)" for c in recipe.counters]
    new = []
    for counter in recipe.counters:
        new += [
            f"{counter.name}_stored = {counter.name}_new.to(tl.{kind.counter})",
            f"tl.store({counter.name}_at, {counter.name}_stored, mask=go)",
            f"{counter.name} = {counter.name}_stored.to(tl.float64)",
        ]
    columns = [f"{plain(name)}_s" for name in scalars.outputs]
    if kind.unscale:
        columns.append("1.0 / tl.load(scale).to(tl.float64)")
    out = [
        f"tl.store(rows + at * {len(columns)} + {i}, ({value}).to(tl.{kind.real}), mask=mask)"
        for i, value in enumerate(columns)
    ]
    drawn = [
        "seed = tl.load(draws + 2 * group, mask=mask, other=0).to(tl.uint64, bitcast=True)",
        "count_at = tl.load(draws + 2 * group + 1, mask=mask, other=0).to(tl.pointer_type(tl.int64))",
        "drawn = tl.load(count_at, mask=mask, other=0).to(tl.uint64, bitcast=True)",
        "word = key(seed, drawn, ordinal.to(tl.uint64, bitcast=True))",
        "tl.store(keys + at, word.to(tl.uint32).to(tl.int32, bitcast=True), mask=mask)",
    ]
    body = [
        *(
            f"{plain('m.' + one.name)} = tl.load(m + {i}, mask=mask, other=0.0)"
            for i, one in enumerate(recipe.measures)
        ),
        *(
            f"{plain('h.' + n)} = tl.load(h + {i}, mask=mask, other=0.0)"
            for i, n in enumerate(recipe.columns)
        ),
        *old,
        *lines(advance, "float64", plain, prefix="a"),
        *new,
        *lines(scalars, "float64", plain, prefix="b", suffix="_s"),
        *out,
        *(drawn if kind.draws else []),
    ]
    return _ROWS.format(
        rule=recipe.name,
        width=WIDTH,
        key="\n\n\n".join([_as_written(draws.mixed), _as_written(draws.key)]),
        hypers=len(recipe.columns),
        measures=len(recipe.measures),
        body=_indented(4, body),
    )


def _as_written(function: Callable[..., object]) -> str:
    """Return a function of operators alone as Triton's: by its source, which is the same."""
    signature, *body = inspect.getsource(function).splitlines()
    name = signature.removeprefix("def ").partition("(")[0]
    names = ", ".join(inspect.signature(function).parameters)
    return "\n".join(["@triton.jit", f"def {name}({names}):", *body])


def _counter_at(index: int, kind: Kind) -> str:
    pointer = f"tl.pointer_type(tl.{kind.counter})"
    return f"tl.load(addresses + (streams + {index}) * tensors + at, mask=mask, other=0).to({pointer})"


_SHARED = """\
# {rule}
TILE = tl.constexpr({tile})
BLOCKS = tl.constexpr({blocks})
BLOCK = tl.constexpr({block})
LENGTH_MASK = tl.constexpr((1 << {length_bits}) - 1)
HIGH_MASK = tl.constexpr((1 << {high_bits}) - 1)


@triton.jit
def bfloat16_value(raw):
    return (raw.to(tl.int32) << 16).to(tl.float32, bitcast=True)


@triton.jit
def bfloat16_cut(x):
    return (x.to(tl.int32, bitcast=True) >> 16).to(tl.int16)


@triton.jit
def bfloat16_nearest(x):
    bits = x.to(tl.int32, bitcast=True)
    up = bits + (((bits >> 16) & 1) + 32767)
    return tl.where(x == x, up >> 16, 32704).to(tl.int16)


@triton.jit
def joined(low, high):
    return (high.to(tl.int64) << 32) | low.to(tl.uint32, bitcast=True).to(tl.int64)


"""

_PLACE = """\
    chunk = chunks + 4 * tl.program_id(0)
    tensor = tl.load(chunk)
    rest = tl.load(chunk + 3)
    length = rest & LENGTH_MASK
    offset = joined(tl.load(chunk + 1), (rest >> {length_bits}) & HIGH_MASK)
    offset_g = joined(tl.load(chunk + 2), rest >> ({length_bits} + {high_bits}))
    row = rows + tensor * {columns}
{row}
"""

_STEP = """\
{shared}
@triton.jit(do_not_specialize=["tensors"], do_not_specialize_on_alignment=["found_inf"])
def step(addresses, chunks, rows, keys, found_inf, tensors):
{place}
    key = tl.load(keys + tensor)
{starts}
    first_index = offset.to(tl.int32)
    block = tl.arange(0, BLOCKS)[:, None]
    lane = tl.arange(0, BLOCK)[None, :]
    index = block * BLOCK + lane
    is_present = tl.load(addresses + tensors + tensor) != 0
    if is_present & (tl.load(found_inf) == 0):
        if length == TILE:
{whole}
        else:
            mask = index < length
            blocks_mask = block * BLOCK < length
{rest}
"""

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
        begin = tl.full((), 0, tl.int32)
        while begin + TILE <= length:
            block = begin // BLOCK + tl.arange(0, BLOCKS)[:, None]
            index = block * BLOCK + lane
{whole}
            begin += TILE
        if begin < length:
            block = begin // BLOCK + tl.arange(0, BLOCKS)[:, None]
            index = block * BLOCK + lane
            mask = index < length
            blocks_mask = block * BLOCK < length
{rest}
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

_ROWS = """\
# {rule}
WIDTH = tl.constexpr({width})


{key}


@triton.jit(
    do_not_specialize=["streams", "tensors", "keeps"],
    do_not_specialize_on_alignment=["scale", "found_inf"],
)
def rows(
    addresses, groups, first_at, hypers, draws, ordinals, rows, keys, scale, found_inf, measures,
    streams, tensors, keeps,
):
    at = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    mask = at < tensors
    is_present = tl.load(addresses + tensors + at, mask=mask, other=0) != 0
    go = is_present & (tl.load(found_inf + at * 0) == 0) & (keeps == 0)
    group = tl.load(groups + at, mask=mask, other=0)
    ordinal = tl.load(ordinals + at, mask=mask, other=0)
    first = tl.load(first_at + ordinal, mask=mask, other=0) != 0
    h = hypers + group * {hypers}
    m = measures + at.to(tl.int64) * {measures}
{body}
    tl.store(first_at + ordinal, 0, mask=go)
"""
