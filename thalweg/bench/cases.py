"""What is measured together: an algorithm, its storage and tensors; and the bytes that a step moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.bench.rivals import ADAMW, ALGORITHMS, FLOAT32, STORAGES, Algorithm, Storage
from thalweg.bench.shapes import GPU_SETS, Shapes

COPIED = 100_000_000
"""Elements of the float32 copy that bandwidth is measured by."""


@dataclass(frozen=True)
class Case:
    """What is measured together.

    Args:
        algorithm: the algorithm.
        storage: how it is stored.
        set: the name of the tensors.
        shapes: the shapes of the tensors.
        groups: over how many groups they are spread.
    """

    algorithm: Algorithm
    storage: Storage
    set: str
    shapes: Shapes
    groups: int = 1

    @property
    def elements(self) -> int:
        """The number of elements of all tensors."""
        return sum(torch.Size(shape).numel() for shape in self.shapes)


def cases(sets: dict[str, Shapes] = GPU_SETS, quick: bool = False) -> list[Case]:
    """Return all cases, the most telling ones first, should time run out.

    Args:
        sets: the sets of tensors.
        quick: whether for a smoke run: one storage, and nothing of more than 1e8 elements.
    """
    storages = STORAGES[:1] if quick else STORAGES
    found = [
        Case(algorithm, storage, name, shapes)
        for storage in storages
        for algorithm in ALGORITHMS
        for name, shapes in sets.items()
    ]
    if quick:
        found = [case for case in found if case.elements <= COPIED]
    small: Shapes = [(64,)] * 161
    return [Case(ADAMW, FLOAT32, f"161 x 64, {n} groups", small, n) for n in (1, 10, 161)] + found


def make_params(case: Case, device: torch.device) -> list[Tensor]:
    """Return random parameters, as small as weights are, with random gradients."""
    generator = torch.Generator(device).manual_seed(0)
    found: list[Tensor] = []
    for shape in case.shapes:
        numbers = [torch.randn(shape, generator=generator, device=device) for _ in range(2)]
        param = torch.nn.Parameter((0.02 * numbers[0]).to(case.storage.dtype))
        param.grad = numbers[1].to(case.storage.dtype)
        found.append(param)
    return found


def grouped(params: Sequence[Tensor], count: int) -> list[dict[str, Any]]:
    """Return the parameters in `count` groups of like sizes."""
    return [{"params": list(params[i::count])} for i in range(count)]


def held_bytes(params: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of parameters, gradients and state."""
    return sum(p.nbytes + grad_of(p).nbytes for p in params) + state_bytes(optimizer)


def moved_bytes(params: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes that a step has to read and write."""
    return sum(2 * p.nbytes + grad_of(p).nbytes for p in params) + 2 * state_bytes(optimizer)


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of the state, but for counters."""
    tensors = [value for own in optimizer.state.values() for value in own.values()]
    return sum(t.nbytes for t in tensors if isinstance(t, Tensor) and t.dim())


def grad_of(param: Tensor) -> Tensor:
    """Return the gradient that `make_params` gave a parameter."""
    assert param.grad is not None, "make_params gives every parameter one"
    return param.grad
