"""Read and write many 0-dim tensors at once.

Every parameter has a `step` tensor of its own, as in torch, so that checkpoints, copies and edits work
on ordinary tensors. Reading 4,000 of them one by one from Python would take as long as the whole step.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import numpy as np
import torch

from thalweg.lowering import machine

_ASSEMBLY = """\
define void @gather(ptr %addresses, ptr %values, i64 %count) {{
  br label %next
next:
  %i = phi i64 [ 0, %0 ], [ %i.next, %next ]
  %cell = getelementptr ptr, ptr %addresses, i64 %i
  %address = load ptr, ptr %cell
  %value = load {real}, ptr %address
  %at = getelementptr {real}, ptr %values, i64 %i
  store {real} %value, ptr %at
  %i.next = add nuw nsw i64 %i, 1
  %end = icmp eq i64 %i.next, %count
  br i1 %end, label %done, label %next
done:
  ret void
}}

define void @scatter(ptr %addresses, ptr %values, i64 %count) {{
  br label %next
next:
  %i = phi i64 [ 0, %0 ], [ %i.next, %next ]
  %cell = getelementptr ptr, ptr %addresses, i64 %i
  %address = load ptr, ptr %cell
  %at = getelementptr {real}, ptr %values, i64 %i
  %value = load {real}, ptr %at
  store {real} %value, ptr %address
  %i.next = add nuw nsw i64 %i, 1
  %end = icmp eq i64 %i.next, %count
  br i1 %end, label %done, label %next
done:
  ret void
}}
"""

_Copy = Callable[[int, int, int], None]


@cache
def _copies(dtype: torch.dtype) -> tuple[_Copy, _Copy]:
    real = "double" if dtype == torch.float64 else "float"
    text = _ASSEMBLY.format(real=real)
    signature = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    gather, scatter = map(signature, machine.compile_to_address(text, ("gather", "scatter")))
    return gather, scatter


class CounterColumn:
    """The values of one counter for all tensors of a batch.

    Args:
        tensors: 0-dim CPU tensors, not none, all of `dtype`.
        dtype: float32 or float64.
    """

    def __init__(self, tensors: list[torch.Tensor], dtype: torch.dtype) -> None:
        self._tensors = tensors  # keeps the memory behind the addresses
        self._addresses = np.array([t.data_ptr() for t in tensors], dtype=np.int64)
        self._gather, self._scatter = _copies(dtype)
        self._values = np.empty(len(tensors), np.float64 if dtype == torch.float64 else np.float32)
        self._arguments = (self._addresses.ctypes.data, self._values.ctypes.data, len(tensors))

    def read(self) -> np.ndarray:
        """Return the values, shape (tensors,); the array is reused by the next call."""
        self._gather(*self._arguments)
        return self._values

    def write(self, values: np.ndarray | float) -> None:
        """Set the values, shape (tensors,), or all to one value."""
        self._values[:] = values
        self._scatter(*self._arguments)
