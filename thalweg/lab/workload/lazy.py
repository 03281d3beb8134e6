"""Models whose layers learn their sizes from the first batch, such as ``nn.LazyLinear``."""

from itertools import islice

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_map

from thalweg.lab.workload.contract import Workload


def settled(workload: Workload, model: nn.Module, seed: int) -> nn.Module:
    """The model once it has seen its first batch, if it has layers that wait for one.

    What is drawn for their weights comes from torch's global generator, which the caller has seeded.
    """
    if not any(map(is_lazy, [*model.parameters(), *model.buffers()])):
        return model
    [batch] = islice(workload.batches(seed), 1)
    with torch.no_grad():
        workload.loss(model.eval(), tree_map(lambda value: value, batch))
    return model.train()
