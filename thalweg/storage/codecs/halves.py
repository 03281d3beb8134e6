"""bfloat16 and float16, rounded stochastically, with or without a correction beside them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from thalweg.rule import where
from thalweg.storage.codecs.bits import (
    INFINITY,
    MAGNITUDE,
    SIGN,
    Bits,
    Scalar,
    at_least,
    at_most,
    bits,
    real,
    to_float16_and_back,
)
from thalweg.storage.codecs.plain import Codec

_DROPPED = {torch.bfloat16: 16, torch.float16: 13}
"""Low bits of a float32 that the dtype has no room for."""

_LEAST_NORMAL_FLOAT16 = 2.0**-14


@dataclass(frozen=True)
class HalfCodec(Codec):
    """A 16-bit number, and a signed integer that says how far the value is from it.

    The distance is counted in the last place of float32, or in a power of two of it, between the bits
    of the value and those of the 16-bit number seen as float32. With as many bits as the dtype drops,
    the value is a float32 exactly, and the number its rounding to nearest; with fewer, the value is
    itself rounded, stochastically; with none, so is the number.

    Args:
        correction: bits of the correction: 0, 8 or 16.
    """

    correction: int = 0

    @property
    def side(self) -> torch.dtype | None:
        """The dtype of the corrections."""
        return {0: None, 8: torch.int8, 16: torch.int16}[self.correction]

    @property
    def drawn(self) -> int:
        """The bits that neither the number nor the correction has room for."""
        return max(_DROPPED[self.dtype] - self.correction, 0)

    def decode(self, number: Scalar, correction: Bits) -> Scalar:
        """Return the value of a number of the dtype, given as float32, and its correction."""
        if not self.correction:
            return number
        value = real(bits(number) + (correction << self.drawn))
        return where(bits(number) & MAGNITUDE < INFINITY, value, number)

    def encode(self, x: Scalar, word: Bits) -> tuple[Scalar, Bits]:
        """Return the number, as float32, and the correction (0 if there is none), rounded by a word."""
        value = self._value(x, word)
        if not self.correction:
            return value, 0
        number = self._number(value)
        return number, self._distance(value, number)

    def _value(self, x: Scalar, word: Bits) -> Scalar:
        """Return `x` rounded stochastically to the bits that are kept; itself, if all are."""
        if not self.drawn:
            return x
        cut = self._gradual if self.dtype == torch.float16 and not self.correction else self._cut
        return where(x < math.inf, cut(x, word), x)

    def _gradual(self, x: Scalar, word: Bits) -> Scalar:
        # Below its least normal number float16 is evenly spaced; lifted by that number, so are float32's
        # numbers of 11 bits.
        size = abs(x)
        lifted = self._cut(size + _LEAST_NORMAL_FLOAT16, word) - _LEAST_NORMAL_FLOAT16
        size = where(size < _LEAST_NORMAL_FLOAT16, lifted, self._cut(size, word))
        return real(bits(size) | (bits(x) & SIGN))

    def _cut(self, x: Scalar, word: Bits) -> Scalar:
        kept = -(1 << self.drawn)
        return real((bits(x) + (word & ~kept)) & kept)

    def _number(self, value: Scalar) -> Scalar:
        # Ties go away from zero, so that the distance to a tie fits: -128 and -32768 do, 128 does not.
        dropped = _DROPPED[self.dtype]
        nearest = real((bits(value) + (1 << (dropped - 1))) & -(1 << dropped))
        number = where(value < math.inf, nearest, value)
        return to_float16_and_back(number) if self.dtype == torch.float16 else number

    def _distance(self, value: Scalar, number: Scalar) -> Bits:
        found = (bits(value) - bits(number)) >> self.drawn
        if self.dtype == torch.bfloat16:
            return found
        largest = (1 << (self.correction - 1)) - 1
        return at_least(at_most(found, largest), -largest - 1)
