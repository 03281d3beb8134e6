"""Codecs: how the elements of a parameter, gradient or state slot are stored.

A codec names a storage; each lowering knows how to read and write it. Arithmetic happens in the
*compute* type whatever the storage: float32, or float64 for float64 parameters. Complex tensors are
stored as pairs of real numbers and are stepped as such.

| module | is |
|---|---|
| `plain` | a number of a torch dtype |
| `halves` | 16-bit floats rounded stochastically, with a correction beside them or without |
| `blocks` | 8-bit codes in blocks that share a scale |
| `windows` | the same without sign, in blocks that choose how fine they are |
| `ratios` | a slot in blocks, in units of the root of another |
| `means` | one number for each row or column, or for the tensor |
| `draws` | the random bits for rounding |
| `bits` | the vocabulary of integers |

What is more than a conversion is written once, as scalar maths, like a rule, and run on torch tensors
and on symbols.
"""

from __future__ import annotations

import torch

from thalweg.storage.codecs.blocks import BLOCK, BlockCodec
from thalweg.storage.codecs.halves import HalfCodec
from thalweg.storage.codecs.means import MEANS, MeanCodec, mean_codec
from thalweg.storage.codecs.plain import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    Codec,
    codec_of,
    dtype_name,
    real_dtype,
    state_dtype,
)
from thalweg.storage.codecs.ratios import RatioCodec
from thalweg.storage.codecs.windows import WindowCodec

__all__ = [
    "BFLOAT16",
    "BLOCK",
    "BLOCK8",
    "FLOAT16",
    "FLOAT32",
    "FLOAT64",
    "IN_BLOCKS",
    "MEANS",
    "STATE",
    "BlockCodec",
    "Codec",
    "HalfCodec",
    "MeanCodec",
    "RatioCodec",
    "WindowCodec",
    "block_codecs",
    "codec_of",
    "mean_codec",
    "real_dtype",
    "slot_codec",
    "state_dtype",
    "weight_codec",
]

STATE = ("float32", "bfloat16", "int8")
"""What `state=` may say. In `"int8"` every slot has the code that suits it best."""

BLOCK8 = "block8"
"""What it may also say: every slot has the same code."""

IN_BLOCKS = ("int8", BLOCK8)
"""What is stored in blocks."""


def slot_codec(name: str, signed: bool, over: str | None = None) -> Codec:
    """Return the codec of a slot that `state=` calls `name`, which a step takes over the root of `over`."""
    if name not in IN_BLOCKS:
        return HalfCodec("bfloat16", torch.bfloat16, torch.float32) if name == "bfloat16" else FLOAT32
    dtype = torch.int8 if signed else torch.uint8
    stored = dtype_name(dtype), dtype, torch.float32, signed
    if name == "int8" and over is not None:
        return RatioCodec(*stored, over)
    return (WindowCodec if name == "int8" and not signed else BlockCodec)(*stored)


def block_codecs(signed: bool, over: str | None) -> list[BlockCodec]:
    """Return all codecs in blocks that a slot may have been stored by. Their scales' dtypes differ."""
    found = [slot_codec(name, signed, over) for name in (BLOCK8, "int8")]
    return [codec for codec in dict.fromkeys(found) if isinstance(codec, BlockCodec)]


def weight_codec(dtype: torch.dtype, bits: int | None) -> Codec:
    """Return the codec of 16-bit parameters that are kept in `bits` bits, and of others their own."""
    plain = codec_of(dtype)
    if plain is None:
        raise TypeError(f"parameters must be floating point or complex, not {dtype}")
    if bits is None or plain not in (BFLOAT16, FLOAT16):
        return plain
    return HalfCodec(plain.name, plain.dtype, plain.compute, bits - 16)
