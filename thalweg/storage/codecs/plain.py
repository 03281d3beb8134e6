"""Plain storage: an element is a number of a torch dtype."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Codec:
    """A storage format.

    Args:
        name: the user's word for it.
        dtype: the torch dtype of the stored tensor.
        compute: the dtype in which arithmetic on it is done.
    """

    name: str
    dtype: torch.dtype
    compute: torch.dtype

    @property
    def itemsize(self) -> int:
        """Bytes of one stored element."""
        return self.dtype.itemsize

    @property
    def side(self) -> torch.dtype | None:
        """The dtype of a second stored tensor, if there is one."""
        return None

    @property
    def drawn(self) -> int:
        """How many random bits an element is rounded by."""
        return 0


FLOAT64 = Codec("float64", torch.float64, torch.float64)
FLOAT32 = Codec("float32", torch.float32, torch.float32)
BFLOAT16 = Codec("bfloat16", torch.bfloat16, torch.float32)
FLOAT16 = Codec("float16", torch.float16, torch.float32)

_BY_DTYPE = {codec.dtype: codec for codec in (FLOAT64, FLOAT32, BFLOAT16, FLOAT16)}


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype, without `torch.`."""
    return str(dtype).removeprefix("torch.")


def real_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of the real and imaginary parts; a real dtype is its own."""
    return dtype.to_real() if dtype.is_complex else dtype


def codec_of(dtype: torch.dtype) -> Codec | None:
    """Return the codec of a tensor of `dtype`, complex seen as real pairs, or None if there is none."""
    return _BY_DTYPE.get(real_dtype(dtype))


def state_dtype(param_dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which the state of a parameter is kept, if nothing else is asked for.

    Half-precision parameters have float32 state: an average with weight 0.001 does not move in
    bfloat16 to nearest, and the square of 1e-4 is zero in float16.
    """
    if param_dtype in (torch.bfloat16, torch.float16):
        return torch.float32
    return torch.complex64 if param_dtype == torch.complex32 else param_dtype
