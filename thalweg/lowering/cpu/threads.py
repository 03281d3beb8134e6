"""Run a kernel on torch's own threads.

A second pool of threads beside torch's costs more than it gains, so a kernel is handed to the OpenMP
library that torch has loaded, whose workers are already awake. Threads share work by claiming tasks, so
it does not matter which of them starts or how many there are.
"""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch


def _openmp() -> ctypes.CDLL | None:
    """Find the loaded library that offers `GOMP_parallel`; torch's own, where several are loaded."""
    from threadpoolctl import threadpool_info

    paths = [pool["filepath"] for pool in threadpool_info() if pool["user_api"] == "openmp"]
    home = str(Path(torch.__file__).parent)
    paths.sort(key=lambda path: not path.startswith(home))
    for path in paths:
        library = ctypes.CDLL(path)
        if hasattr(library, "GOMP_parallel"):
            return library
    return None


@cache
def parallel() -> int:
    """Return the address of `void (function, argument, threads, 0)`, which calls it on that many threads."""
    library = _openmp()
    found: Any = _on_pool() if library is None else library.GOMP_parallel
    address = ctypes.cast(found, ctypes.c_void_p).value
    assert address is not None
    return address


def _on_pool() -> Any:
    pool = ThreadPoolExecutor(thread_name_prefix="thalweg")
    _KEPT.append(_Parallel(partial(_run_on_pool, pool)))
    return _KEPT[-1]


@cache
def is_native() -> bool:
    """Say whether threads are OpenMP's, and not Python's, which would wait for the lock of their caller."""
    parallel()
    return not _KEPT


def count() -> int:
    """Return on how many threads to run: torch's number, and 1 in a process that was forked.

    OpenMP's workers are not forked along, and GNU's OpenMP waits for them forever.
    """
    return 1 if _IS_FORKED else torch.get_num_threads()


def _run_on_pool(pool: ThreadPoolExecutor, address: int, argument: int, threads: int, flags: int) -> None:
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)  # releases the GIL
    others = [pool.submit(call, argument) for _ in range(threads - 1)]
    call(argument)
    for other in others:
        other.result()


_Parallel = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
_KEPT: list[object] = []
_IS_FORKED = False


def _note_fork() -> None:
    global _IS_FORKED
    _IS_FORKED = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)
