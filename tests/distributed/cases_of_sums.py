"""Sums over processes, gathered or shared out."""

from __future__ import annotations

import torch
import torch.distributed as dist
from processes import case

from thalweg.distributed import sums


@case()
def sums_are_the_same_whichever_way_they_are_made():
    groups, cpu = [dist.group.WORLD], torch.device("cpu")
    for shape in ((1, 1), (7, 2), (64,), (0, 3)):
        tables = [torch.randn(shape, generator=torch.Generator().manual_seed(r)).double() for r in range(4)]
        own = tables[dist.get_rank()]
        expected = torch.stack(tables[: dist.get_world_size()]).sum(0)
        found = []
        for most in (sums.MOST_GATHERED_BYTES, -1):
            before, sums.MOST_GATHERED_BYTES = sums.MOST_GATHERED_BYTES, most
            try:
                found.append(sums.over_processes(own, groups, cpu))
            finally:
                sums.MOST_GATHERED_BYTES = before
        for one in found:
            assert torch.equal(one, expected)
