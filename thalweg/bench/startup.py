"""What a new process pays: the import, and the first step with a cold and a warm cache of kernels."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

_SCRIPT = """
import time
import torch
t0 = time.perf_counter()
import thalweg
t1 = time.perf_counter()
params = [torch.nn.Parameter(torch.randn(s)) for s in ((1000,), (30, 30))]
for p in params: p.grad = torch.randn_like(p)
optimizer = thalweg.AdamW(params)
t2 = time.perf_counter()
optimizer.step()
print(t1 - t0, time.perf_counter() - t2)
"""


@dataclass(frozen=True)
class StartupResult:
    """Median seconds, and the goal."""

    what: str
    seconds: float
    goal: float


def measure(repeats: int = 5) -> Iterator[StartupResult]:
    """Start processes and time them, `repeats` for each case."""
    imports, cold, warm = [], [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            cold.append(_run(folder)[1])
            imported, first = _run(folder)
            imports.append(imported)
            warm.append(first)
    yield StartupResult("import thalweg, after torch", statistics.median(imports), 0.05)
    yield StartupResult("first step, cold kernel cache", statistics.median(cold), 1.0)
    yield StartupResult("first step, warm kernel cache", statistics.median(warm), 0.3)


def _run(folder: str) -> tuple[float, float]:
    environment = {**os.environ, "THALWEG_CACHE_DIR": folder}
    output = subprocess.run(
        [sys.executable, "-c", _SCRIPT], env=environment, check=True, capture_output=True, text=True
    ).stdout
    imported, first = map(float, output.split())
    return imported, first
