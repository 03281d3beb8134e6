"""What a program does with what is kept by row: its chunk is a row, which it goes over twice.

First for the mean of the row's squares, in float64, and then for its elements. All of them read the row's
number of before; what it becomes is the same for all, and is written with each tile.
"""

from __future__ import annotations

from thalweg.lowering import passes
from thalweg.lowering.gpu.elements import fetch, gradient, input_of, load, nearest, over_tiles
from thalweg.lowering.gpu.expressions import lines
from thalweg.lowering.spec import Spec
from thalweg.storage.codecs.plain import dtype_name


def before_tiles(spec: Spec) -> str:
    """Return how a row's numbers are loaded, and the mean of its squares is taken; nothing without such."""
    if not spec.by_row:
        return ""
    real = dtype_name(spec.compute)
    found = []
    for name, codec in spec.by_row.items():
        found += [f"{name}_raw = tl.load({name}_at)", *load(name, codec, real)]
    record = passes.squares(spec.recipe, dict(spec.on), spec.scalars, spec.codecs)
    text = "\n".join(" " * 8 + line for line in found)
    if record is None:
        return text
    tiles = over_tiles(_squared(spec, ""), _squared(spec, "mask"))
    return _MEAN.format(loads=text, tiles=tiles, real=real)


def stores(spec: Spec) -> list[str]:
    """Return how the row's numbers are written."""
    return [
        f"tl.store({name}_at, {nearest(f'{name}_new', codec.name)})" for name, codec in spec.by_row.items()
    ]


def _squared(spec: Spec, mask: str) -> list[str]:
    """Return how the squares of a tile are added up."""
    real = dtype_name(spec.compute)
    record = passes.squares(spec.recipe, dict(spec.on), spec.scalars, spec.codecs)
    assert record is not None, "the caller has asked"
    used = {name.partition(".")[0] for name in record.inputs} - spec.by_row.keys()
    streams = [one for one in spec.streams if one.name.partition(".")[0] in used]
    found = [fetch(stream, "raw", mask=mask) for stream in streams]
    for name, codec in spec.stored.items():
        if name in used:
            found += load(name, codec, real)
    found += gradient(spec._replace(stage="clipped"), real, mask)  # it only reads
    found += lines(record, real, input_of)
    square = f"tl.where({mask}, square_new, 0.0)" if mask else "square_new"
    return [*found, f"square_sum += {square}.to(tl.float64)"]


_MEAN = """\
{loads}
        square_sum = tl.zeros((BLOCKS, BLOCK), tl.float64)
{tiles}
        row_mean = (tl.sum(tl.sum(square_sum, axis=1), axis=0) / length).to(tl.{real})"""
