"""A GPU kernel's text: the passes of `passes.py` on tiles of blocks of 64 elements.

A program steps a chunk tile by tile, each of as many elements as it holds in registers at once. So what is
stored in blocks is packed where it was computed, without a second pass.
"""

from __future__ import annotations

from thalweg.lowering import passes
from thalweg.lowering.gpu import means, shapes
from thalweg.lowering.gpu.elements import (
    SHARED,
    constants,
    fetch,
    gradient,
    indented,
    input_of,
    kept,
    load,
    masked,
    nearest,
    over_tiles,
    place,
    start,
    walked,
)
from thalweg.lowering.gpu.expressions import lines, plain
from thalweg.lowering.spec import Spec, Stream
from thalweg.storage.codecs import Codec, HalfCodec
from thalweg.storage.codecs.draws import distance, numbers
from thalweg.storage.codecs.plain import dtype_name


def step(spec: Spec, aligned: bool) -> str:
    """Return the kernel of `spec`.

    Args:
        spec: what it does.
        aligned: whether all memory begins at multiples of 16 bytes, as chunks of dense tensors then do.
    """
    streams = spec.streams
    return _STEP.format(
        shared=SHARED.format(**constants(spec)),
        place=place(spec),
        starts=indented(4, [line for i, one in enumerate(streams) for line in start(i, one, aligned)]),
        mean=means.before_tiles(spec),
        ahead=indented(8, _ahead(spec, "", "length >= TILE") if shapes.shape_of(spec).ahead else []),
        tiles=over_tiles(
            [*_whole(spec), *_tile(spec, "")],
            [*(fetch(stream, "raw", mask="mask") for stream in walked(spec)), *_tile(spec, "mask")],
        ),
    )


def _whole(spec: Spec) -> list[str]:
    """Return how a whole tile is fetched, perhaps while the one before it is computed."""
    if not shapes.shape_of(spec).ahead:
        return [fetch(stream, "raw") for stream in walked(spec)]
    early = [f"{plain(stream.name)}_raw = {plain(stream.name)}_ahead" for stream in _elements(spec)]
    # Scales of many tiles lie together: but for a program's first, they are near by the time.
    late = [fetch(stream, "raw") for stream in spec.streams if stream.shared > 1]
    return [*early, *late, *_ahead(spec, "TILE", "begin + 2 * TILE <= length")]


def _elements(spec: Spec) -> list[Stream]:
    return [stream for stream in spec.streams if stream.shared == 1]


def _ahead(spec: Spec, beyond: str, condition: str) -> list[str]:
    """Return how elements are fetched on a condition, which has to hold for all of a tile."""
    found = [fetch(stream, "ahead", beyond=beyond, mask="more") for stream in _elements(spec)]
    return [f"more = {condition}", *found]


def _tile(spec: Spec, mask: str) -> list[str]:
    """Return what is done with one tile; `mask` names what says which elements there are, if not all."""
    real = dtype_name(spec.compute)
    found = _words(spec)
    for name, codec in spec.stored.items():
        if name not in spec.by_row:
            found += load(name, codec, real)
    found += gradient(spec, real, mask)
    record = passes.element(spec.recipe, dict(spec.on), spec.scalars, spec.codecs)
    found += lines(record, real, input_of)
    for name, codec in spec.codecs.items():
        if name not in spec.blocks and name not in spec.by_row:
            found += _store(name, codec, mask)
    found += means.stores(spec)
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


def _store(name: str, codec: Codec, mask: str) -> list[str]:
    where = masked(mask, other=False)
    new = f"{name}_new"
    exact = isinstance(codec, HalfCodec) and codec.name == "bfloat16"
    stored = f"bfloat16_cut({new})" if exact else nearest(new, codec.name)
    found = [f"tl.store({name}_at + index, {stored}{where})"]
    if codec.side is not None:
        side = f"{name}_side_new.to(tl.{dtype_name(codec.side)})"
        found.append(f"tl.store({name}_side_at + index, {side}{where})")
    return found


def _store_blocks(spec: Spec, mask: str) -> list[str]:
    """Return how what is in blocks is packed: all of a block's elements are in the tile."""
    found = []
    for name, codec in spec.blocks.items():
        for rank in map(plain, passes.ranks_of(name, codec)):
            ranked = f"tl.where({mask}, {rank}_rank_new, 0)" if mask else f"{rank}_rank_new"
            found.append(f"{rank}_largest = tl.max({ranked}, axis=1, keep_dims=True)")
        record = passes.new_anchor(name, codec)
        found += lines(record, "float32", plain, prefix=f"{name}_n", suffix="")
    found += lines(passes.pack(spec.codecs), "float32", _packed_input, prefix="k", suffix="")
    for name, codec in spec.blocks.items():
        assert codec.side is not None, "blocks have scales"
        code = f"{name}_code.to(tl.{codec.name})"
        scale = f"{name}_scale.to(tl.{kept(dtype_name(codec.side))})"
        scale_at = f"{name}_side_at + block"
        found += [
            f"tl.store({name}_at + index, {code}{masked(mask, other=False)})",
            f"tl.store({scale_at}, {scale}{masked(mask and 'blocks_mask', other=False)})",
        ]
    return found


def _packed_input(name: str) -> str:
    return plain(name) if "." in name else f"{name}_new"


_STEP = """\
{shared}
@triton.jit(do_not_specialize=["tensors"], do_not_specialize_on_alignment=["found_inf"])
def step(addresses, chunks, rows, keys, found_inf, tensors):
{place}
    key = tl.load(keys + tensor)
{starts}
    first_index = offset.to(tl.int32)
    lane = tl.arange(0, BLOCK)[None, :]
    is_present = tl.load(addresses + tensors + tensor) != 0
    if is_present & (tl.load(found_inf) == 0):
        block = tl.arange(0, BLOCKS)[:, None]
        index = block * BLOCK + lane
{mean}
{ahead}
{tiles}
"""
