"""How large should a chunk be? Times AdamW's step for several sizes, in turns.

Run: python benchmarks/chunk_size.py
"""

import statistics
import time

import torch

import thalweg
from thalweg.bench.shapes import SETS
from thalweg.stepping.engines import CpuEngine

SIZES = [2**k for k in range(10, 21, 2)]
TURNS = 15

for name, shapes in SETS.items():
    optimizers = {}
    for size in SIZES:
        CpuEngine.chunk = staticmethod(lambda elements, size=size: size)  # asked when a plan is made
        params = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
        for param in params:
            param.grad = torch.randn_like(param)
        optimizers[size] = thalweg.AdamW(params)
        optimizers[size].step()
    times: dict[int, list[float]] = {size: [] for size in SIZES}
    for _ in range(TURNS):
        for size, optimizer in optimizers.items():
            start = time.perf_counter()
            optimizer.step()
            times[size].append(time.perf_counter() - start)
    row = "  ".join(f"{size}: {statistics.median(t) * 1e3:.2f}" for size, t in times.items())
    print(f"{name:16} ms by chunk size  {row}")
