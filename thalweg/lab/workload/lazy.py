"""Models whose layers learn their sizes from the first batch, such as ``nn.LazyLinear``."""

from itertools import islice

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from thalweg.lab.workload.contract import Workload, option


def settled(workload: Workload, model: nn.Module, seed: int) -> nn.Module:
    """The model once it has seen its first batch, if it has layers that wait for one.

    What is drawn for their weights comes from torch's global generator, which the caller has seeded.
    """
    if not any(map(is_lazy, [*model.parameters(), *model.buffers()])):
        return model
    with torch.no_grad():
        if any(option(workload, name) is not None for name in ("training_step", "training_loop")):
            # There is no loss to be asked for, or no batch.
            workload.evaluate(model.eval(), "validation")
        else:
            [batch] = islice(workload.batches(seed), 1)
            workload.loss(model.eval(), batch)
    return model.train()
