"""The CPU lowering: a traced rule becomes one LLVM function that steps any number of tensors.

A launch takes a table of addresses (one row for `p`, `g`, each slot and each side tensor, one column for
each tensor), a table of chunks, the scalars in rows, and for each tensor its row and its key. Threads
claim tasks, runs of chunks, until none is left.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from thalweg.chunks import SIZE, Chunks
from thalweg.codecs import BlockCodec, Codec
from thalweg.lowering import machine, threads
from thalweg.lowering.assembly import assembly
from thalweg.lowering.spec import Spec

__all__ = ["Kernel", "Launch", "assembly", "chunk", "kernel", "supports"]

# Below this many elements a second thread costs more than it brings.
SERIAL = 32_768

LARGEST = 262_144
"""Most elements of a chunk. What a processor fetches ahead of one is in vain at its end."""

SHARES = 32
"""Chunks for each thread, at least, before they grow: the last ones end at about the same time."""


def chunk(elements: int) -> int:
    """Return the most elements of a chunk where a step takes `elements` of them."""
    share = elements // (SHARES * torch.get_num_threads()) // 64 * 64
    return min(max(share, SIZE), LARGEST)


def supports(codec: Codec | None) -> bool:
    """Say whether this processor's kernels read and write `codec`."""
    if codec is None:
        return False
    features = machine.host()[1]
    reads_float16 = codec.name == "float16" or isinstance(codec, BlockCodec)
    return not reads_float16 or "+f16c" in features or "+fullfp16" in features


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel. `dtype` is the type of a row of scalars."""

    address: int
    dtype: type


class Launch:
    """A kernel and the tables of one batch, ready to run again and again.

    Args:
        kernel: the kernel.
        addresses: int64 (streams, tensors), where the first elements of `p`, `g`, the slots and the side
            tensors lie. Read at every run.
        chunks: the work.
        rows: (rows, scalars) of the kernel's dtype. Read at every run.
        row_of: int64 (tensors,), the row of each tensor. Read at every run.
        keys: int32 (tensors,), the keys of the draws; not read by a kernel that does not draw. Read at
            every run.
    """

    def __init__(
        self,
        kernel: Kernel,
        addresses: np.ndarray,
        chunks: Chunks,
        rows: np.ndarray,
        row_of: np.ndarray,
        keys: np.ndarray,
    ) -> None:
        self._kernel = kernel
        self._tables = (addresses, chunks, rows, row_of, keys)  # what the descriptor points into
        self._tasks = len(chunks.tasks) - 1
        self._serial = chunks.elements <= SERIAL
        self._descriptor = (ctypes.c_int64 * 9)(
            0,
            self._tasks,
            chunks.tasks.ctypes.data,
            chunks.table.ctypes.data,
            addresses.ctypes.data,
            addresses.shape[1],
            rows.ctypes.data,
            row_of.ctypes.data,
            keys.ctypes.data,
        )
        self._argument = ctypes.addressof(self._descriptor)

    def run(self) -> None:
        """Step all tensors of the batch."""
        self._descriptor[0] = 0  # no task is claimed
        count = 1 if self._serial else min(torch.get_num_threads(), self._tasks)
        if count > 1:
            threads.parallel()(self._kernel.address, self._argument, count)
        else:
            _call(self._kernel.address)(self._argument)


@cache
def _call(address: int) -> ctypes._CFuncPtr:  # type: ignore[name-defined]
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)


@cache
def kernel(spec: Spec) -> Kernel:
    """Return the kernel of `spec`, compiled, or loaded from the cache."""
    (address,) = machine.compile_to_address(assembly(spec), ("step",))
    return Kernel(address, np.float64 if spec.compute == torch.float64 else np.float32)
