"""What does a step of sharded parameters (DTensors) cost, beside torch's and beside plain tensors?

Two processes over gloo, a thread each; AdamW in float32. Clipping is `max_norm` in the step beside torch's
`clip_grad_norm_` and the step. All take turns, with a barrier before each; ratios are medians over the turns,
above 1 where ours is faster.

With `--ranks` and `--parameters`: one process that stands for many (`many_ranks.py`).

Run: python benchmarks/sharded.py [--turns 40] [--ranks 512 --parameters 100000]
"""

from __future__ import annotations

import argparse
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import many_ranks
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import thalweg
from thalweg.bench.measure import compare, seconds_of, turns
from thalweg.bench.shapes import SETS

PROCESSES = 2
OURS = "thalweg"


def sharded(shapes: list[tuple[int, ...]], mesh: Any) -> list[torch.nn.Parameter]:
    """Return DTensors with gradients, cut along their first dimension."""
    params = []
    for shape in shapes:
        values = (
            distribute_tensor(torch.randn(shape), mesh, [Shard(0)], src_data_rank=None) for _ in range(2)
        )
        param = torch.nn.Parameter(next(values))
        param.grad = next(values)
        params.append(param)
    return params


def plain(params: list[Any]) -> list[torch.nn.Parameter]:
    """Return plain tensors of the sizes of the parts that this process holds."""
    found = []
    for param in params:
        own = torch.nn.Parameter(param.to_local().detach().clone())
        own.grad = torch.randn_like(own)
        found.append(own)
    return found


def clipped(optimizer: torch.optim.Optimizer, params: list[Any]) -> None:
    """Clip and step as torch does."""
    torch.nn.utils.clip_grad_norm_(params, 1.0)
    optimizer.step()


def ways(shapes: list[tuple[int, ...]], mesh: Any) -> dict[str, dict[str, Callable[[], object]]]:
    """Return what is compared, by table and name; the first of a table is ours."""
    made = {
        name: sharded(shapes, mesh)
        for name in ("ours", "foreach", "fused", "clip", "clip foreach", "clip fused")
    }
    theirs = {
        name: torch.optim.AdamW(made[name], lr=1e-3, fused=True if "fused" in name else None)
        for name in ("foreach", "fused", "clip foreach", "clip fused")
    }
    return {
        "step": {
            OURS: thalweg.AdamW(made["ours"], lr=1e-3).step,
            "torch": theirs["foreach"].step,
            "torch fused": theirs["fused"].step,
            "thalweg, plain tensors": thalweg.AdamW(plain(made["ours"]), lr=1e-3).step,
        },
        "clip and step": {
            OURS: thalweg.AdamW(made["clip"], lr=1e-3, max_norm=1.0).step,
            "torch": partial(clipped, theirs["clip foreach"], made["clip foreach"]),
            "torch fused": partial(clipped, theirs["clip fused"], made["clip fused"]),
        },
    }


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that a process takes, once all are there."""
    dist.barrier()
    return seconds_of(work)


def measure(rank: int, port: int, count: int) -> None:
    """Measure all of it in one of the processes."""
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=PROCESSES)
    mesh = init_device_mesh("cpu", (PROCESSES,))
    for name in ("ResNet-50", "400 x 1,000"):
        for table, works in ways(SETS[name], mesh).items():
            for _ in range(3):
                for work in works.values():
                    work()
            # As many turns in all processes: a step with measures waits for the other ones.
            found = list(zip(*turns(list(works.values()), timed, seconds=0, least=count), strict=True))
            for other, times in zip(list(works)[1:], found[1:], strict=True):
                c = compare(times, found[0])
                if rank == 0:
                    print(
                        f"{name:12} {table:14} thalweg {c.ours * 1e3:7.3f} ms  {other:22} "
                        f"{c.baseline * 1e3:7.3f} ms  ratio {c.ratio:5.2f} ({c.low:.2f} to {c.high:.2f})"
                    )
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--ranks", type=int)
    parser.add_argument("--parameters", type=int, default=100_000)
    given = parser.parse_args()
    if given.ranks is not None:
        many_ranks.report(given.ranks, given.parameters)
        raise SystemExit
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(measure, (port, given.turns), nprocs=PROCESSES)
