"""One number for each row: the mean of what the elements of the row would be."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from thalweg.storage.codecs.plain import Codec


@dataclass(frozen=True)
class RowCodec(Codec):
    """A number of a torch dtype for each row, an index of the parameter's first dimension."""


@cache
def by_row(plain: Codec) -> RowCodec:
    """Return the codec of rows' numbers that are stored as `plain` stores elements."""
    return RowCodec(plain.name, plain.dtype, plain.compute)
