"""What the kernels that walk along elements share: their place, what is loaded, and how it is read."""

from __future__ import annotations

from typing import Any

import numpy as np

from thalweg.lowering.gpu import shapes
from thalweg.lowering.gpu.expressions import plain
from thalweg.lowering.spec import Spec, Stream
from thalweg.storage.codecs import BLOCK, BlockCodec, Codec

LENGTH_BITS = 13
"""Bits for the length of a chunk; those for the high parts of its two offsets share the rest of 31."""


HIGH_BITS = (31 - LENGTH_BITS) // 2


def packed(table: np.ndarray) -> np.ndarray:
    """Return a table of chunks in half the bytes, for a kernel to read.

    Args:
        table: int64 (chunks, 4), as `Chunks.table`; lengths below 2^13, offsets below 2^41. Or (chunks, 5) of
            whole rows, of any length.

    Returns:
        int32 (chunks, 4): tensor, low halves of offset and offset in the gradient, and in one number length
        and the high parts of the offsets. Of rows the table itself.
    """
    if table.shape[1] == 5:
        return table
    tensor, offset, offset_g, length = table.T
    high, high_g = offset >> 32, offset_g >> 32
    assert np.maximum(high, high_g).max(initial=0) < 1 << HIGH_BITS, "a tensor beyond 2^41 elements"
    rest = length | high << LENGTH_BITS | high_g << (LENGTH_BITS + HIGH_BITS)
    return np.stack([tensor, offset, offset_g, rest], axis=1).astype(np.uint32).view(np.int32)


def constants(spec: Spec) -> dict[str, Any]:
    """Return what `SHARED` is filled with."""
    tile = shapes.shape_of(spec).tile
    return {
        "rule": spec.recipe.name,
        "tile": tile,
        "blocks": tile // BLOCK,
        "length_bits": LENGTH_BITS,
        "high_bits": HIGH_BITS,
        "block": BLOCK,
    }


def place(spec: Spec) -> str:
    """Return where a program finds its chunk and its scalars."""
    scalars = [f"s_{name} = tl.load(row + {i})" for i, name in enumerate(spec.columns)]
    chunk = _CHUNK_OF_ROW if spec.by_row else _CHUNK.format(**constants(spec))
    return _PLACE.format(chunk=chunk, columns=len(spec.columns), row=indented(4, scalars))


def walked(spec: Spec) -> list[Stream]:
    """Return the streams that are walked along; not those of which a row has one number."""
    return [stream for stream in spec.streams if stream.shared]


def indented(depth: int, found: list[str]) -> str:
    """Return lines with so many spaces before each."""
    return "\n".join(" " * depth + line for line in found)


def over_tiles(whole: list[str], rest: list[str]) -> str:
    """Return the loop over a chunk's tiles: what is done with a whole one, and with the rest by `mask`."""
    return _TILES.format(whole=indented(12, whole), rest=indented(12, rest))


def start(index: int, stream: Stream, aligned: bool) -> list[str]:
    """Return where the memory of a stream begins that a chunk walks along.

    Args:
        index: of the stream in the table of addresses.
        stream: the stream.
        aligned: whether that is at a multiple of 16 bytes.
    """
    at = f"{plain(stream.name)}_at"
    offset = "offset_g" if stream.name == "g" else "offset"
    if stream.shared != 1:
        offset = f"{offset} // {stream.shared or 'length'}"
    pointer = f"tl.pointer_type(tl.{kept(stream.stored)})"
    found = [f"{at} = tl.load(addresses + {index} * tensors + tensor).to({pointer}) + {offset}"]
    if aligned and stream.shared == 1:
        found.append(f"{at} = tl.multiple_of({at}, 16)")
    return found


def masked(mask: str, other: bool = True) -> str:
    """Return the arguments of a load, or with `other` false of a store, of which a mask is part, if any."""
    return f", mask={mask}, other=0" if mask and other else f", mask={mask}" if mask else ""


def fetch(stream: Stream, suffix: str, *, beyond: str = "", mask: str = "") -> str:
    """Return how what a stream has for a tile is loaded, as it is stored.

    Args:
        stream: the stream.
        suffix: of the variable.
        beyond: how many elements after those at `index`, if any.
        mask: what says which elements there are, if not all.
    """
    name = plain(stream.name)
    if stream.shared > 1:
        return f"{name}_{suffix} = tl.load({name}_at + block{masked(mask and 'blocks_mask')})"
    at = f"index + {beyond}" if beyond else "index"
    return f"{name}_{suffix} = tl.load({name}_at + {at}{masked(mask)})"


def load(name: str, codec: Codec, real: str) -> list[str]:
    """Return how the values of a stream come from what was fetched."""
    if isinstance(codec, BlockCodec):
        return [
            f"{name}_code = {name}_raw.to(tl.int32)",
            f"{name}_scale = {name}_side_raw.to(tl.int32)",
        ]
    found = [f"{name}_in = {_value(f'{name}_raw', codec.name, real)}"]
    if codec.side is not None:
        found.append(f"{name}_side = {name}_side_raw.to(tl.int32)")
    return found


def kept(stored: str) -> str:
    """Return the dtype that memory is taken as: bfloat16 as bits; Triton's interpreter rounds it wrongly."""
    return "int16" if stored == "bfloat16" else stored


def _value(raw: str, stored: str, real: str) -> str:
    return f"bfloat16_value({raw}).to(tl.{real})" if stored == "bfloat16" else f"{raw}.to(tl.{real})"


def nearest(value: str, stored: str) -> str:
    """Return a value rounded to the nearest of the dtype that is stored."""
    return f"bfloat16_nearest({value}.to(tl.float32))" if stored == "bfloat16" else f"{value}.to(tl.{stored})"


def gradient(spec: Spec, real: str, mask: str) -> list[str]:
    """Return the gradient as it is used, unscaled and negated where asked; a step writes back the former."""
    found = []
    if spec.unscale:
        found.append("g_in = g_in * s_unscale")
    if spec.unscale and not spec.stage:
        found += [
            f"tl.store(g_at + index, {nearest('g_in', spec.g.name)}{masked(mask, other=False)})",
        ]
    return [*found, f"g_used = {'-' if spec.maximize else ''}g_in"]


def input_of(name: str) -> str:
    """Return the variable of an input of a pass."""
    if name == "g":
        return "g_used"
    return plain(name) if "." in name else f"{name}_in"


SHARED = """\
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


_CHUNK = """\
    chunk = chunks + 4 * tl.program_id(0)
    tensor = tl.load(chunk)
    rest = tl.load(chunk + 3)
    length = rest & LENGTH_MASK
    offset = joined(tl.load(chunk + 1), (rest >> {length_bits}) & HIGH_MASK)
    offset_g = joined(tl.load(chunk + 2), rest >> ({length_bits} + {high_bits}))"""

_CHUNK_OF_ROW = """\
    chunk = chunks + 5 * tl.program_id(0).to(tl.int64)
    tensor = tl.load(chunk).to(tl.int32)
    offset = tl.load(chunk + 1)
    offset_g = tl.load(chunk + 2)
    length = tl.load(chunk + 3).to(tl.int32)"""

_PLACE = """\
{chunk}
    row = rows + tensor * {columns}
{row}
"""

_TILES = """\
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
{rest}"""
