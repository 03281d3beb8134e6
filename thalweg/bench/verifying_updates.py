"""Whether our whole update is right, before it is timed: it ends where three calls of torch's do."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

import thalweg
from thalweg.bench.cases import Case, make_params
from thalweg.bench.rivals import Algorithm, Storage, oracle, ours
from thalweg.bench.shapes import Shapes
from thalweg.bench.sides import FLOAT32, PACKED, ThreeCalls
from thalweg.bench.verifying import distance

TOLERANCES = {FLOAT32.name: 1e-3, PACKED.name: 0.1}
"""How far our weights and averages may be off, as a share of how far torch's have gone."""

VERIFIED_SHAPES: Shapes = [(5000,), (3, 5), (64, 65)]

VERIFIED_SCALES = (1.0, 0.005, 3.0, 30.0, 0.1, 10.0)
"""Of the gradients of the steps that are verified. The second ones are not clipped, the others are."""

VERIFIED_DECAY, VERIFIED_LR = 0.9, 0.1
"""Kernels read both at run time. With the measured ones, averages would hardly move in a few steps."""


def verify(algorithm: Algorithm, storage: Storage, device: torch.device) -> None:
    """Take both ways from the same weights over the same gradients, and compare weights and averages.

    Raises:
        ArithmeticError: if they end too far apart.
    """
    most = TOLERANCES[storage.name]
    for what, error in errors_of(algorithm, storage, device).items():
        if not error <= most:
            name = f"{algorithm.name}, {storage.name}"
            raise ArithmeticError(f"wrong {what}: {error:.2g} from torch's, allowed are {most:.2g} ({name})")


def errors_of(algorithm: Algorithm, storage: Storage, device: torch.device) -> dict[str, float]:
    """Return how far our weights and averages end from those of the three calls."""
    slower = replace(storage, options={**storage.options, "average": VERIFIED_DECAY})
    mine = make_params(Case(algorithm, slower, "", VERIFIED_SHAPES), device)
    theirs: list[Tensor] = [nn.Parameter(p.detach().clone()) for p in mine]
    begun = [p.detach().clone() for p in mine]
    own = ours(algorithm, slower, VERIFIED_LR)(mine)
    assert isinstance(own, thalweg.Optimizer)
    other = ThreeCalls(oracle(algorithm, VERIFIED_LR)(theirs), VERIFIED_DECAY)
    generator = torch.Generator(device).manual_seed(1)
    for scale in VERIFIED_SCALES:
        for p, q in zip(mine, theirs, strict=True):
            p.grad = scale * torch.randn(p.shape, generator=generator, device=device)
            q.grad = p.grad.clone()
        own.step()
        other.step()
    assert other.averages is not None, "it has stepped"
    return {
        "weights": distance(mine, theirs, begun),
        "averages": distance(list(own.averaged_weights().values()), other.averages, begun),
    }
