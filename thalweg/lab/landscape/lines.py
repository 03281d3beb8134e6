"""The loss along the straight line between two solutions."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.lab.landscape.vectors import Weights, flat


@dataclass(frozen=True)
class Line:
    """Losses along a line, and the barrier between its ends.

    Attributes:
        positions: from 0, the first solution, to 1, the second, (points,).
        losses: means over the batches there, (points,).
        errors: their standard errors over batches; NaN for a single batch.
        height: how far the loss rises above the straight line between the losses of the ends, at most; at
            least 0.
        height_error: its standard error over batches at that place, paired batch by batch.
        place: the position of the height.
    """

    positions: Tensor
    losses: Tensor
    errors: Tensor
    height: float
    height_error: float
    place: float


def barrier(
    weights_a: Weights, weights_b: Weights, loss_fn: Callable[[Weights], Tensor], points: int = 11
) -> Line:
    """The loss on the line between two solutions, and its barrier.

    The barrier is the maximum over t of L(a + t (b - a)) - ((1 - t) L(a) + t L(b)): Entezari et al. 2022,
    arXiv 2110.06296, equation 1. Frankle et al. 2020, arXiv 1912.05671, take it above the mean of both ends.

    Args:
        weights_a: a solution: tensors, or one vector.
        weights_b: another, in the same order.
        loss_fn: takes weights, one vector, to a loss or to those of several batches, (batches,), the same
            batches each time; `evaluated_at` makes it of parameters and closures.
        points: evaluations on the line, both ends among them, at least 3.

    Raises:
        ValueError: the weights do not have the same number of elements, or points are too few.
    """
    first, second = flat(weights_a, torch.float64), flat(weights_b, torch.float64)
    if first.shape != second.shape:
        raise ValueError(f"weights_b must have {first.numel()} elements, as weights_a, not {second.numel()}")
    if points < 3:
        raise ValueError(f"points must be at least 3, not {points}")
    positions = torch.linspace(0, 1, points, dtype=torch.float64)
    found = torch.stack([_losses(loss_fn((1 - t) * first + t * second)) for t in positions.tolist()])
    straight = torch.outer(1 - positions, found[0]) + torch.outer(positions, found[-1])
    above = found - straight
    highest = int(above.mean(1).argmax())
    return Line(
        positions,
        found.mean(1),
        standard_errors(found),
        float(above[highest].mean()),
        float(standard_errors(above)[highest]),
        float(positions[highest]),
    )


def standard_errors(losses: Tensor) -> Tensor:
    """Of means over the last axis, that of batches; NaN for a single one."""
    count = losses.shape[-1]
    return losses.std(-1) / math.sqrt(count) if count > 1 else torch.full(losses.shape[:-1], math.nan)


def _losses(value: Tensor | float) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64).detach().cpu().reshape(-1)
