"""A task's model to look at: what modules it has and how large they are, not what it computes."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch import nn

from thalweg.lab.workload import chance
from thalweg.lab.workload.contract import Workload, option
from thalweg.lab.workload.lazy import settled

SEED = 0


def model_of(workload: Workload) -> nn.Module:
    """A model of the task, as the first process of a run has it; what it holds may be any numbers."""
    with chance.left_alone(), _imagined(option(workload, "processes")):
        return settled(workload, workload.model(SEED), SEED)


@contextmanager
def _imagined(processes: int) -> Iterator[None]:
    """A group of so many processes, of which there is none but this one: its collectives do nothing."""
    if processes == 1 or dist.is_initialized():
        yield
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=processes)
    try:
        yield
    finally:
        dist.destroy_process_group()
