"""int8 of what has no sign: blocks of 64 elements that choose how finely they are spaced.

The bits of a positive float32, read as an integer, grow with it, and evenly spaced integers are the numbers
with so many bits of mantissa. A *window* has codes 2^`shift` apart, from 12 to 18 (11 to 5 bits of mantissa):
1 is its `base`, the smallest positive element cut to 4 bits of mantissa, and the shift the least with which
the largest element has a code. 0 is zero and 255 what is not finite. All windows with one shift have the same
grid, so that what is on it stays on it while the block moves.

Where 5 bits of mantissa do not span a block, its codes are those of `blocks`, with 4. Both are read as one:

    y = the number with the bits origin + code 2^shift,    value = min(y, slope (y - y(0)))

In a window the slope is so steep that it lowers no code but 0, which it makes zero. In a block of 4 bits it
is 2, and that is gradual underflow.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from thalweg.rule import where
from thalweg.storage.codecs.bits import (
    INFINITY,
    SIGN,
    Bits,
    Scalar,
    at_least,
    at_most,
    bits,
    byte,
    real,
    shift_right,
)
from thalweg.storage.codecs.blocks import BlockCodec

_MANTISSA = 23
_OCTAVE = 1 << _MANTISSA
"""Added to its bits, it doubles a number; those of infinity and NaN, and only these, pass into the sign."""

_WIDE, _FINEST = 19, 12
"""The shift of 4 bits of mantissa, and that of 11."""

_FINER = 7
"""The bits of a scale that say by how much a shift is below the widest. The others are those of y(0)."""

_GRAIN = -(1 << _WIDE)
"""The bits that a base has."""

_INFINITE = 255

_LOWEST = _OCTAVE
"""The least y(0), but for the bits of its step: a normal number. The scale 0 stands for it."""

_HIGHEST = (127 + 91) << _MANTISSA
"""The largest base, 2^91: the steepest slope times y(0) is finite."""

# An integer below 2^23 under this exponent is the mantissa of a float32, and less 2^23 that number.
_EXPONENT, _TWO_23 = 0x4B000000, 2.0**23
_BIAS = 126

_TWO, _STEEPER = 128, 5
"""The exponents of the gentle slope, and of how much steeper one is for each bit of mantissa above 4."""


@dataclass(frozen=True)
class WindowCodec(BlockCodec):
    """Codes of 8 bits without sign, and for each block 16 bits: where they begin, and how fine they are."""

    signed: bool = False

    @property
    def side(self) -> torch.dtype | None:
        """The dtype that has the bits of the scales; processes do not exchange integers of 16 bits."""
        return torch.bfloat16

    @property
    def drawn(self) -> int:
        """The bits that the widest code has no room for; a finer one takes the lowest of them."""
        return _WIDE

    @property
    def ranked(self) -> int:
        """How many `ranks` an element has."""
        return 2

    def ranks(self, x: Scalar) -> tuple[Bits, ...]:
        """Return a number that grows with `x` and one that falls; what does not count is negative or small.

        That is what is not finite, in both, and zero, in the second.
        """
        return bits(x) + _OCTAVE, SIGN - bits(x)

    def anchor(self, *largest: Bits) -> Bits:
        """Return a block's scale from the largest of its `ranks`."""
        top = at_least(largest[0], _OCTAVE)
        # Where there is no positive finite element, the base is the highest there is.
        smallest = SIGN - at_least(largest[1], 2**31 - _HIGHEST)
        base = at_least(smallest & _GRAIN, _LOWEST - _GRAIN)
        shift = _shift(top - (base + _OCTAVE))
        origin = where(shift < _WIDE, base + _GRAIN, _origin_of_wide(top))
        return shift_right(origin - _LOWEST, _WIDE - 3) | (_WIDE - shift)

    def scale(self, anchor: Bits) -> Bits:
        """Return what is stored for it, which is the same."""
        return anchor

    def nearest(self, anchor: Bits) -> Bits:
        """Return the word that rounds to nearest in a block with this scale."""
        return 1 << (_WIDE - 1 - (anchor & _FINER))

    def decode(self, code: Bits, scale: Bits) -> Scalar:
        """Return the value of a code, a byte without sign; 255 is infinity."""
        origin, shift = _origin(scale)
        slope = real(((scale & _FINER) * _STEEPER + _TWO) << _MANTISSA)
        y = real(origin + (code << shift))
        lowered = slope * y - slope * real(origin)
        return real(where(code < _INFINITE, at_most(bits(y), bits(lowered)), INFINITY))

    def encode(self, x: Scalar, anchor: Bits, word: Bits) -> Bits:
        """Return the code of `x`, rounded by a random word."""
        origin, shift = _origin(anchor)
        size, zero = bits(x), origin + _OCTAVE
        # Twice `y`: in a window, whose lift is half of that, all that is positive is above it.
        lift = zero - (((anchor & _FINER) + _FINER & ~_FINER) << (_MANTISSA - 3))
        lifted = bits(x + real(at_least(size, lift)))
        # No bit of `word` is one of those of `zero`, so that `|` takes it off.
        code = (lifted + (word & ((1 << shift) - 1) | -zero)) >> shift
        # What is positive is never stored as zero; NaN with a sign is below it.
        return byte(at_least(code, at_most(size, 1)))


def _origin(scale: Bits) -> tuple[Bits, Bits]:
    """Return the bits of y(0), and the shift."""
    shift = _WIDE - (scale & _FINER)
    # By bits alone: LLVM would find a sum, and add a part of it to every element.
    return ((scale & ~_FINER) << (_WIDE - 3)) + _LOWEST | (-1 << shift) & ~_GRAIN, shift


def _shift(width: Bits) -> Bits:
    """Return the least shift with which 252 steps are at least as wide, and at most the widest."""
    number = real(shift_right(width - at_least(at_most(width, 1), 0), 8) | _EXPONENT) - _TWO_23
    # Its exponent, or the next one if its mantissa is 1 + 31/32 or more: of 256 steps 252 are so wide.
    # Less one, for what is as wide has room, and has to keep it: it may have been rounded to be so.
    exponent = shift_right(bits(number) + (1 << (_MANTISSA - 5)), _MANTISSA)
    return at_most(at_least(exponent - _BIAS, _FINEST), _WIDE)


def _origin_of_wide(top: Bits) -> Bits:
    """Return the bits of y(0) in a block of 4 bits of mantissa."""
    exponent = shift_right(top + (2 << _WIDE) - 1, _MANTISSA) - 16
    return at_most(at_least(exponent, 1), 255 - 17) << _MANTISSA
