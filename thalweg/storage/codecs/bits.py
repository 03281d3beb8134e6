"""The bits of float32 numbers as int32, in the vocabulary that storage is written in.

Like the rules, a codec's maths is run on torch tensors (the reference) and on symbols (the kernels). On
both, int32 values know `+ - * & | ^ <<`, which wrap around, and comparisons; the rest is here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Bits = Any
"""An int32 tensor or a traced integer."""

Scalar = Any
"""A float32 tensor or a traced number."""

SIGN = -(2**31)
MAGNITUDE = 2**31 - 1
INFINITY = 0x7F800000


def bits(x: Scalar) -> Bits:
    """Return the bits of a float32."""
    return x.view(torch.int32) if isinstance(x, Tensor) else x.bits()


def real(i: Bits) -> Scalar:
    """Return the float32 that has the given bits."""
    return i.view(torch.float32) if isinstance(i, Tensor) else i.real()


def number(i: Bits) -> Scalar:
    """Return the float32 that is an integer of less than 25 bits."""
    return i.to(torch.float32) if isinstance(i, Tensor) else i.number()


def shift_right(i: Bits, n: int) -> Bits:
    """Shift right by `n` from 1 to 31, zeros coming in."""
    return (i >> n) & ((1 << (32 - n)) - 1) if isinstance(i, Tensor) else i.shift_right(n)


def at_most(i: Bits, j: Bits) -> Bits:
    """Return the smaller one; `j` may be a number."""
    if isinstance(i, Tensor):
        return i.clamp(max=j)
    return i.at_most(j)


def at_least(i: Bits, j: Bits) -> Bits:
    """Return the larger one; `j` may be a number."""
    if isinstance(i, Tensor):
        return i.clamp(min=j)
    return i.at_least(j)


def byte(i: Bits) -> Bits:
    """Return `i`, or 255 if it is larger or negative."""
    return torch.where(i < 0, 255, i.clamp(max=255)) if isinstance(i, Tensor) else i.byte()


def quotient(x: Scalar, y: Scalar) -> Scalar:
    """Return `x / y`, of which the last two bits may be off; `y` is normal, and `x` may be a number."""
    return x / y if isinstance(y, Tensor) else y.under(x)


def to_float16_and_back(x: Scalar) -> Scalar:
    """Return the nearest float16 number, ties to even, as float32."""
    return x.to(torch.float16).to(torch.float32) if isinstance(x, Tensor) else x.to_float16_and_back()


def from_float16(i: Bits) -> Scalar:
    """Return, as float32, the float16 number whose bits are the lowest 16 of `i`."""
    return i.to(torch.int16).view(torch.float16).to(torch.float32) if isinstance(i, Tensor) else i.float16()


def signed32(i: int) -> int:
    """Return the int32 with the lowest 32 bits of `i`."""
    return (i + 2**31) % 2**32 - 2**31
