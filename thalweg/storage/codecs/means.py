"""One number in place of many: the mean of what their elements would be.

A parameter is seen as a matrix: the first dimension are its rows, all others together its columns. For what
maps columns to rows, as the weights of linear layers and convolutions do, the mean over a row is that over
fan-in, and the mean over a column that over fan-out (Kalra et al. 2025, arXiv 2503.01843).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import prod

from torch import Tensor

from thalweg.storage.codecs.plain import Codec

ROW, COLUMN, TENSOR = "row", "column", "tensor"

MEANS = {ROW: "_rows", COLUMN: "_columns", TENSOR: "_tensor"}
"""What `state=` may say of a second moment: what has one number. And how the key of these numbers ends."""


@dataclass(frozen=True)
class MeanCodec(Codec):
    """A number of a torch dtype for each row or column, or for the whole tensor.

    Args:
        name, dtype, compute: of the number.
        per: one of `MEANS`, what has a number.
    """

    per: str

    def shape(self, of: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of what is stored for a parameter of the shape `of`: one dimension."""
        return (prod(_kept(self.per, of)),)

    def spread(self, numbers: Tensor, of: Sequence[int]) -> Tensor:
        """Return a view of the numbers with as many dimensions as `of`, of size 1 where they are means."""
        return numbers.reshape(_kept(self.per, of))

    def mean(self, values: Tensor) -> Tensor:
        """Return the means of values, as `spread` shapes them; of float64 where the device has that."""
        exact = values if values.device.type == "mps" else values.double()
        over = {ROW: range(1, values.dim()), COLUMN: (0,), TENSOR: range(values.dim())}[self.per]
        return exact.mean(tuple(over), keepdim=True).to(values.dtype)


def _kept(per: str, of: Sequence[int]) -> tuple[int, ...]:
    first = of[0] if per == ROW else 1
    return (first, *(size if per == COLUMN else 1 for size in of[1:]))


@cache
def mean_codec(plain: Codec, per: str) -> MeanCodec:
    """Return the codec of means that are stored as `plain` stores elements."""
    return MeanCodec(plain.name, plain.dtype, plain.compute, per)
