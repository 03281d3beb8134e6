"""What does a step of very many processes cost each of them, before anything is sent?

One process stands for all: its group is torch's fake one, whose collectives do nothing, so that numbers mean
nothing, and times are this process's own on its processor: planning, tables, summing up measures. Each
parameter is a DTensor of a row of 64 elements for each rank.

Run: python benchmarks/sharded.py --ranks 512 --parameters 100000
"""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

import thalweg

ROW = 64


class Cost(NamedTuple):
    """Seconds of the first step, which plans, and of a later one; bytes that the first leaves in memory."""

    first: float
    later: float
    held: int


def simulate(ranks: int, parameters: int, **options: object) -> Cost:
    """Step AdamW with these options as the first of so many processes."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        mesh = init_device_mesh("cpu", (ranks,))
        held = [_sharded(mesh, ranks) for _ in range(parameters)]
        optimizer = thalweg.AdamW(held, lr=1e-3, **options)
        gc.collect()
        before = resident()
        first, later = _timed(optimizer), min(_timed(optimizer) for _ in range(3))
        return Cost(first, later, resident() - before)
    finally:
        dist.destroy_process_group()


def _sharded(mesh: object, ranks: int) -> torch.nn.Parameter:
    own = [
        DTensor.from_local(
            torch.ones(1, ROW),
            mesh,
            [Shard(0)],
            run_check=False,
            shape=torch.Size((ranks, ROW)),
            stride=(ROW, 1),
        )
        for _ in range(2)
    ]
    param = torch.nn.Parameter(own[0])
    param.grad = own[1]
    return param


def _timed(optimizer: torch.optim.Optimizer) -> float:
    began = time.process_time()
    optimizer.step()
    return time.process_time() - began


def resident() -> int:
    """Bytes of memory that this process has now; 0 where that cannot be known."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * 4096 if status.exists() else 0


def report(ranks: int, parameters: int) -> None:
    """Print a line for a plain step and one for a step with a measure."""
    torch.set_num_threads(1)
    simulate(ranks, 10)  # kernels are compiled, modules imported
    for name, options in (("step", {}), ("clip and step", {"max_norm": 1.0})):
        cost = simulate(ranks, parameters, **options)
        print(
            f"{ranks} ranks, {parameters:,} parameters, {name:14} first {cost.first:8.3f} s  later "
            f"{1e3 * cost.later:8.3f} ms  held {cost.held / parameters:8,.0f} bytes a parameter"
        )
