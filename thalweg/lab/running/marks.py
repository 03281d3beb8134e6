"""Marks of data, by which it is noticed that a run has changed them."""

import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

BLOCK, BLOCKS = 1 << 16, 64
"""How much of them is looked at after each run: all, or so many blocks of so many bytes."""


def marks(values: list[Any]) -> list[Any]:
    """By which a change is noticed; None for what is no data."""
    return [_mark(value) for value in values]


def _mark(value: Any) -> Any:
    if value is None or isinstance(value, int | float | str | bytes):
        return repr(value)
    if isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu":
        flat = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        return value._version, _sum(flat)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return _sum(np.ascontiguousarray(value).reshape(-1).view(np.uint8))
    return None


def _sum(data: Any) -> int:
    if data.size <= BLOCK * BLOCKS:
        return zlib.crc32(data)
    found = 0
    for start in np.linspace(0, data.size - BLOCK, BLOCKS).astype(int):
        found = zlib.crc32(data[start : start + BLOCK], found)
    return found
