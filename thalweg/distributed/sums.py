"""Sums over the processes that a tensor is cut for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


def over_processes(summands: Tensor, groups: Sequence[Any], device: torch.device) -> Tensor:
    """Return the sums over the processes of all groups, one group after the other.

    All are gathered and added in the order of ranks, so that every process has the same bits, whatever way an
    algorithm of reduction would have taken.

    Args:
        summands: of this process, any shape.
        groups: process groups; a mesh that is cut along several dimensions has one for each.
        device: on which the groups exchange tensors.
    """
    home, summands = summands.device, summands.to(device)
    for group in groups:
        found = [torch.empty_like(summands) for _ in range(group.size())]
        dist.all_gather(found, summands.contiguous(), group=group)
        summands = torch.stack(found).sum(0)
    return summands.to(home)
