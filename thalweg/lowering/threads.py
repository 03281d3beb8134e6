"""Run a kernel on torch's own threads.

A second pool of threads beside torch's costs more than it gains, so a kernel is handed to the OpenMP
library that torch has loaded, whose workers are already awake. Threads share work by claiming tasks, so
it does not matter which of them starts or how many there are.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

import torch

Runner = Callable[[int, int, int], None]


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
def parallel() -> Runner:
    """Return `run(address, argument, threads)`, which calls `address(argument)` on that many threads."""
    library = _openmp()
    if library is None:
        return partial(_run_on_pool, ThreadPoolExecutor(thread_name_prefix="thalweg"))
    run = library.GOMP_parallel
    run.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    run.restype = None
    return lambda address, argument, threads: run(address, argument, threads, 0)


def _run_on_pool(pool: ThreadPoolExecutor, address: int, argument: int, threads: int) -> None:
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)  # releases the GIL
    others = [pool.submit(call, argument) for _ in range(threads - 1)]
    call(argument)
    for other in others:
        other.result()
