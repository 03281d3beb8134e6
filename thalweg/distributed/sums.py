"""Sums over the processes that a tensor is cut for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

MOST_GATHERED_BYTES = 1 << 20
"""Summands of all processes that each of them gathers; of more, each adds up a share for all."""


def over_processes(summands: Tensor, groups: Sequence[Any], device: torch.device) -> Tensor:
    """Return the sums over the processes of all groups, one group after the other.

    They are added in the order of ranks, and each sum in one process or in all alike, so that every process
    has the same bits, whatever way an algorithm of reduction would have taken.

    Args:
        summands: of this process, any shape.
        groups: process groups; a mesh that is cut along several dimensions has one for each.
        device: on which the groups exchange tensors.
    """
    home, summands = summands.device, summands.to(device)
    for group in groups:
        few = summands.nbytes * group.size() <= MOST_GATHERED_BYTES
        summands = (_gathered if few else _shared_out)(summands.contiguous(), group)
    return summands.to(home)


def _gathered(summands: Tensor, group: Any) -> Tensor:
    """One collective, in which each process receives as much as all have."""
    found = [torch.empty_like(summands) for _ in range(group.size())]
    dist.all_gather(found, summands, group=group)
    return torch.stack(found).sum(0)


def _shared_out(summands: Tensor, group: Any) -> Tensor:
    """Two, in each of which a process receives as much as it has."""
    size, count = group.size(), summands.numel()
    each = -(-count // size)
    whole = summands.new_zeros(size * each)
    whole[:count] = summands.reshape(-1)
    found = torch.empty_like(whole)
    dist.all_to_all_single(found, whole, group=group)
    dist.all_gather(list(whole.view(size, each)), found.view(size, each).sum(0), group=group)
    return whole[:count].view(summands.shape)
