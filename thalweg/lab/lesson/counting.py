"""What is counted instead of measured: bytes of state, bytes of activations."""

from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch.nn import functional

from thalweg.lab.lesson import workloads
from thalweg.lab.running.training import state_bytes as bytes_of

PARAMETERS = 100_000


def state_bytes(package: str, name: str, **arguments: Any) -> float:
    """Bytes of state that an optimizer keeps for a float32 parameter, after a step; its counters among them.

    Args:
        package: where the class lies: ``thalweg`` or ``torch.optim``.
        name: of the class.
        arguments: for its constructor.
    """
    parameter = torch.nn.Parameter(torch.zeros(PARAMETERS))
    parameter.grad = torch.ones_like(parameter)
    optimizer = getattr(import_module(package), name)([parameter], lr=1e-3, **arguments)
    optimizer.step()
    return bytes_of(optimizer) / PARAMETERS


@cache
def activations(batch: int) -> int:
    """Bytes that the digits network keeps between forward and backward for so many images."""
    model = workloads.digits().model(0)
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    inputs, classes = torch.zeros(batch, 1, 8, 8), torch.zeros(batch, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = functional.cross_entropy(model(inputs), classes)
    del loss
    return sum(kept.values())


def rows_moved(name: str, sparse: bool, **arguments: Any) -> float:
    """The share of a table's rows without gradient that a step moves, after one in which all had one.

    Args:
        name: of the class in `thalweg`.
        sparse: whether the gradient names its rows, or is dense with zeros in the others.
        arguments: for the constructor.
    """
    table = torch.nn.Embedding(100, 4, sparse=sparse)
    optimizer = getattr(import_module("thalweg"), name)(table.parameters(), lr=1e-2, **arguments)
    table(torch.arange(100)).square().sum().backward()
    optimizer.step()
    before = table.weight.detach().clone()
    optimizer.zero_grad()
    table(torch.arange(10)).square().sum().backward()
    optimizer.step()
    return float((table.weight.detach() != before)[10:].any(dim=1).float().mean())
