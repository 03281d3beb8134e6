"""block8: blocks of 64 elements that share a power of two, each element a floating-point number of 8 bits.

A signed code is a sign, 3 bits of exponent and 4 of mantissa; an unsigned one has 4 bits of exponent. As in
IEEE 754 the lowest exponent is that of gradual underflow: below the block's `anchor`, its least normal
number, codes are evenly spaced, a sixteenth of the anchor apart, and above it by a sixteenth of their
power of two. The highest code stands for what is not finite.

Scales are powers of two: a byte holds one, reading and storing are exact, and what is on the grid stays on
it until the block's largest element passes into another power of two.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from thalweg.rule import where
from thalweg.storage.codecs.bits import (
    MAGNITUDE,
    Bits,
    Scalar,
    at_least,
    at_most,
    bits,
    from_float16,
    real,
    shift_right,
)
from thalweg.storage.codecs.draws import nearest
from thalweg.storage.codecs.plain import Codec

BLOCK = 64
"""Elements that share a scale."""

_MANTISSA = 4
_EXPONENT = 23
_SHIFT = _EXPONENT - _MANTISSA

RANK = 1 << _EXPONENT
"""Added to the bits of a magnitude, it has infinity and NaN, and only these, pass into the sign."""

# A code is read as a float16, whose mantissa has 6 bits more and whose least normal number is 2^-14.
_SHIFT_16 = 10 - _MANTISSA
_LEAST_16 = 14
_NAN_16, _INFINITY_16, _SIGN_16 = 0x7E00, 0x7C00, 0x8000


@dataclass(frozen=True)
class BlockCodec(Codec):
    """Codes of 8 bits, and for each block a byte, the exponent of its anchor.

    Args:
        signed: whether values may be negative. Of an unsigned codec, a positive value is never stored
            as zero: what divides by the root of a second moment must not find zero there.
    """

    signed: bool = True

    @property
    def side(self) -> torch.dtype | None:
        """The dtype of the scales."""
        return torch.uint8

    @property
    def drawn(self) -> int:
        """All bits that a code has no room for."""
        return _SHIFT

    @property
    def _highest(self) -> int:
        return 127 if self.signed else 255

    def size(self, x: Scalar) -> Bits:
        """Return the bits of the magnitude of `x`."""
        return bits(x) & MAGNITUDE if self.signed else bits(x)

    @property
    def ranked(self) -> int:
        """How many `ranks` an element has."""
        return 1

    def ranks(self, x: Scalar) -> tuple[Bits, ...]:
        """Return numbers of which a block's `anchor` needs the largest; where there is no element they are 0.

        This one grows with the `size` of `x`, and is negative if `x` is not finite.
        """
        return (self.size(x) + RANK,)

    def anchor(self, *largest: Bits) -> Bits:
        """Return the bits of the anchor of a block from the largest of its `ranks`."""
        octaves = (self._highest + 1) >> _MANTISSA
        (rank,) = largest
        rank = at_least(rank, RANK)
        # A mantissa above that of the highest finite code belongs to the next power of two.
        exponent = shift_right(rank + (2 << _SHIFT) - 1, _EXPONENT) - (octaves - 1)
        # At most so high that what is not finite is coded above all that is.
        return at_most(at_least(exponent, 1), 255 - 16) << _EXPONENT

    def scale(self, anchor: Bits) -> Bits:
        """Return the byte that is stored for an anchor."""
        return shift_right(anchor, _EXPONENT)

    def nearest(self, anchor: Bits) -> Bits:
        """Return the word that rounds to nearest in a block with this anchor."""
        return (anchor & 0) + nearest(_SHIFT)

    def decode(self, code: Bits, scale: Bits) -> Scalar:
        """Return the value of a code, a byte with its sign, in a block with the stored `scale`.

        The highest code, whatever its sign, is NaN if the codec is signed, and else infinity.
        """
        unit = real((scale + _LEAST_16) << _EXPONENT)  # what 1 means where the anchor is 2^-14
        if self.signed:
            # Of the copies of the sign that a negative number begins with, one comes to be float16's.
            half = (code << _SHIFT_16) & (_SIGN_16 | (self._highest << _SHIFT_16))
            half = where(code & self._highest < self._highest, half, half | _NAN_16)
        else:
            highest = self._highest << _SHIFT_16
            half = code << _SHIFT_16
            half = where(code < self._highest, half, half + (_INFINITY_16 - highest))
        return from_float16(half) * unit

    def encode(self, x: Scalar, anchor: Bits, word: Bits) -> Bits:
        """Return the code of `x`, whose lowest byte counts, rounded by a random word."""
        size = self.size(x)
        # Twice what is above the anchor, and what is below lifted by it, is spaced as float32's first
        # four bits of mantissa. No bit of `word` is one of the anchor's, so that `|` takes it off.
        lifted = bits(real(size) + real(at_least(size, anchor)))
        rounded = shift_right(lifted + (word & ((1 << _SHIFT) - 1) | -anchor), _SHIFT)
        if self.signed:
            code = at_most(rounded, self._highest)
            return where(bits(x) < 0, code | 128, code)
        return at_most(where(size > 0, at_least(rounded, 1), rounded), self._highest)
