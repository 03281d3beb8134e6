"""Random words for rounding, as a function of (seed, step, parameter, element).

Nothing is remembered between draws, so neither threads nor chunks nor the way of a tensor through the
step matter, and a resumed run draws what the uninterrupted one would have drawn.

The elements of a parameter are taken in runs of 64. For each step, parameter, run and stored value a hash
draws one word, uniform and independent of all others. The run's elements have words at even distances from
it, multiples of an irrational number, modulo a power of two. So each element's word is uniform, and
independent from step to step, which makes rounding by it unbiased; and the 64 are spread more evenly than
independent ones, which makes the sum of their errors smaller. A hash for each element would cost as much
as all else that stochastic rounding does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from thalweg.storage.codecs.bits import Bits, shift_right, signed32
from thalweg.storage.codecs.plain import Codec

Words = Any
"""An array of uint64, or what a kernel has in its place: these functions are lowered as they stand."""

RUN = 64
"""Elements that share a hash."""

_IRRATIONAL = (
    0.6180339887,
    0.7548776662,
    0.5698402910,
    0.8191725134,
    0.6710436067,
    0.5497004779,
    0.8566748839,
)
"""The numbers of the R sequences (Roberts 2018, The Unreasonable Effectiveness of Quasirandom Sequences):
the inverse golden ratio, and the inverse roots of x^3 = x + 1, x^4 = x + 1 and so on with their powers."""


def distance(number: int, size: int) -> int:
    """Return what is added from one element's word to the next one's.

    Args:
        number: which of the element's values the word rounds.
        size: the bits of the word that are used, the lowest.
    """
    return round(_IRRATIONAL[number] * 2**size) | 1


def keys(seed: int, step: int, ordinals: np.ndarray) -> np.ndarray:
    """Return the keys of a step, int32 (n,).

    Args:
        seed: at least 0, below 2^63.
        step: how many steps have drawn before.
        ordinals: int64 (n,), the position of each parameter among all of the optimizer's.
    """
    found = key(np.array([seed], np.uint64), np.uint64(step), ordinals.astype(np.uint64))
    return found.astype(np.uint32).view(np.int32)


def key(seed: Words, step: Words, ordinal: Words) -> Words:
    """Return the key of a parameter at a step in the lowest 32 bits of a word."""
    return mixed(mixed(mixed(seed) + step) + ordinal)


def mixed(x: Words) -> Words:
    """Return the finalizer of SplitMix64 (Steele, Lea and Flood 2014), after its own increment."""
    x = x + 0x9E3779B97F4A7C15
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


def numbers(codecs: Mapping[str, Codec]) -> dict[str, int]:
    """Return which of an element's words rounds which of its values: the slots first, then `p`."""
    drawing = sorted((name for name, codec in codecs.items() if codec.drawn), key=lambda name: name == "p")
    return {name: number for number, name in enumerate(drawing)}


def first_word(key: Bits, start: Bits, number: int) -> Bits:
    """Return the word of the first element of a run.

    Args:
        key: of the step and the parameter.
        start: the index of the run's first element in the parameter's memory, modulo 2^32.
        number: which of the element's values the word rounds.
    """
    # The finalizer of MurmurHash3 (Appleby 2011).
    x = (start + key) ^ signed32(0x9E3779B9 * number)
    x = (x ^ shift_right(x, 16)) * signed32(0x85EBCA6B)
    x = (x ^ shift_right(x, 13)) * signed32(0xC2B2AE35)
    return x ^ shift_right(x, 16)


def word(key: Bits, index: Bits, number: int, size: int, row: int | None = None) -> Bits:
    """Return the word of the element at `index`.

    Runs start at multiples of `RUN` or, if the length of a `row` is given, at those from its beginning.
    """
    lane = (index if row is None else index % row) & (RUN - 1)
    return first_word(key, index - lane, number) + lane * distance(number, size)


def nearest(size: int) -> int:
    """Return the word that makes of stochastic rounding the rounding to nearest, ties away from zero."""
    return 1 << (size - 1)
