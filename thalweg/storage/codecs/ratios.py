"""int8 of a first moment: in units of the root of the second, in blocks of 64 evenly spaced codes.

What a step needs of a first moment m is m / sqrt(v). Elements of m may differ by many octaves where their v
does; the ratio does not: it is within sqrt(1 / (1 - beta2)) whatever gradients are, if beta1^2 < beta2, and
about as large in all of a block. So

    m = code spacing root(v),    root(v) = the number with the bits (bits of v + bits of 1) / 2

with codes from -126 to 126, and 127 for what is not finite. The spacing is a bfloat16 that the block's
largest element needs. `root` joins the powers of four by straight lines, exact there and at most 6 % above
sqrt(v) between, in two operations on integers.

Encoding divides by the root of v as it is computed, and decoding multiplies by that of v as it was stored. So
where rounding has moved v, m moves with it, and m / sqrt(v) does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from thalweg.rule import where
from thalweg.storage.codecs.bits import (
    Bits,
    Scalar,
    at_least,
    bits,
    byte,
    number,
    quotient,
    real,
    shift_right,
)
from thalweg.storage.codecs.blocks import RANK, BlockCodec
from thalweg.storage.codecs.draws import nearest

_HALF_OF_ONE = 127 << 22
"""Half of the bits of 1."""

_DRAWN = 15
"""The bits below a code while it is rounded: as many as float32 has there between 256 and 512."""

_MIDDLE, _LEAST = 384.0, 0x43800000
"""Added to a number of codes, it is between 256 (whose bits these are) and 512."""

_ZERO, _NAN = 128, 127

_REACH = 1 / 125.5
"""The spacing over the largest element: rounded up, that is 126."""

_HEADER = 16
_NORMAL = 1 << 23
"""The least spacing's bits: its inverse is finite."""


def root(v: Scalar) -> Scalar:
    """Return about the root of a number that is not negative, float32; of zero 1.5 2^-64."""
    return real(shift_right(bits(v), 1) + _HALF_OF_ONE)


@dataclass(frozen=True)
class RatioCodec(BlockCodec):
    """Codes of 8 bits for the ratio to the root of another slot, and for each block a bfloat16, the spacing.

    Args:
        over: the other slot.
    """

    over: str = ""

    @property
    def side(self) -> torch.dtype | None:
        """The dtype of the scales, which are spacings."""
        return torch.bfloat16

    @property
    def drawn(self) -> int:
        """The bits that a code is rounded by."""
        return _DRAWN

    def part(self, x: Scalar, other: Scalar) -> Scalar:
        """Return the ratio that is stored of `x`, where the other slot is `other`."""
        return quotient(x, root(other))

    def whole(self, ratio: Scalar, other: Scalar) -> Scalar:
        """Return what has the ratio, where the other slot was stored as `other`."""
        return ratio * root(other)

    def anchor(self, *largest: Bits) -> Bits:
        """Return the bits of a block's spacing from the largest of its `ranks`."""
        most = real(at_least(largest[0], RANK) - RANK)
        return at_least(bits(most * _REACH) + ((1 << _HEADER) - 1) & (-1 << _HEADER), _NORMAL)

    def scale(self, anchor: Bits) -> Bits:
        """Return the 16 bits that are stored for a spacing."""
        return shift_right(anchor, _HEADER)

    def nearest(self, anchor: Bits) -> Bits:
        """Return the word that rounds to nearest in a block with this spacing."""
        return (anchor & 0) + nearest(_DRAWN)

    def decode(self, code: Bits, scale: Bits) -> Scalar:
        """Return the ratio of a code, a byte with its sign; 127 is NaN."""
        ratio = number(code) * real(scale << _HEADER)
        return where(code < _NAN, ratio, float("nan"))

    def encode(self, x: Scalar, anchor: Bits, word: Bits) -> Bits:
        """Return the code of a ratio, rounded by a random word."""
        placed = bits(x * quotient(1.0, real(anchor)) + _MIDDLE) - _LEAST
        return byte(shift_right(placed + (word & ((1 << _DRAWN) - 1)), _DRAWN)) ^ _ZERO
