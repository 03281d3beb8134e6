"""The plane through a start and two ends: paths on it, and the loss over it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.lab.landscape.lines import standard_errors
from thalweg.lab.landscape.vectors import Weights, flat

LEAST_ANGLE = 1e-6
"""Ends whose directions differ by less than this (sine) span no plane."""


@dataclass(frozen=True)
class Projection:
    """A path as its plane sees it.

    Attributes:
        coordinates: (n, 2), in the units of weights.
        distances: how far each point lies from the plane, (n,).
        shares: the same as a share of its distance from the origin, from 0, on the plane, to 1.
    """

    coordinates: Tensor
    distances: Tensor
    shares: Tensor


@dataclass(frozen=True)
class Grid:
    """The loss over a part of a plane.

    Attributes:
        xs: (columns,) first coordinates.
        ys: (rows,) second coordinates.
        losses: (rows, columns), means over the batches.
        errors: their standard errors over batches; NaN for a single batch.
    """

    xs: Tensor
    ys: Tensor
    losses: Tensor
    errors: Tensor


@dataclass(frozen=True)
class Plane:
    """A plane in the space of weights, with lengths and angles as they are there.

    Attributes:
        origin: (n,), float64.
        axes: two orthonormal rows, (2, n); the first points to the first end.
    """

    origin: Tensor
    axes: Tensor

    def at(self, x: float, y: float) -> Tensor:
        """The weights at a point of the plane, one vector; `parts` gives them the shapes of parameters."""
        return self.origin + x * self.axes[0] + y * self.axes[1]

    def project(self, path: Sequence[Weights]) -> Projection:
        """The nearest points of the plane, and how far it is to them.

        Args:
            path: weights, each tensors or one vector, in the order of the plane's.
        """
        coordinates, distances, shares = [], [], []
        for weights in path:
            away = flat(weights, torch.float64).to(self.origin.device) - self.origin
            inside = self.axes @ away
            left = float((away - inside @ self.axes).norm())
            whole = float(away.norm())
            coordinates.append(inside)
            distances.append(left)
            shares.append(left / whole if whole else 0.0)
        return Projection(
            torch.stack(coordinates).cpu(),
            torch.tensor(distances, dtype=torch.float64),
            torch.tensor(shares, dtype=torch.float64),
        )

    def losses(self, loss_fn: Callable[[Weights], Tensor], xs: Sequence[float], ys: Sequence[float]) -> Grid:
        """The loss at every point of a grid.

        Args:
            loss_fn: see `barrier`.
            xs: first coordinates.
            ys: second coordinates.
        """
        found = torch.stack(
            [
                torch.stack(
                    [
                        torch.as_tensor(loss_fn(self.at(x, y)), dtype=torch.float64).reshape(-1).cpu()
                        for x in xs
                    ]
                )
                for y in ys
            ]
        )
        return Grid(
            torch.tensor(list(xs), dtype=torch.float64),
            torch.tensor(list(ys), dtype=torch.float64),
            found.mean(-1),
            standard_errors(found),
        )


def plane(origin: Weights, ends: Sequence[Weights]) -> Plane:
    """The plane through a point and two others, with an orthonormal basis (Gram and Schmidt, in float64).

    Args:
        origin: such as the initial weights: tensors, or one vector.
        ends: two others, such as the ends of two runs from there.

    Raises:
        ValueError: there are not two ends, their sizes differ, or all three points lie on a line.
    """
    if len(ends) != 2:
        raise ValueError(f"ends must be two, not {len(ends)}")
    start = flat(origin, torch.float64)
    ways = [flat(end, torch.float64).to(start.device) for end in ends]
    for way in ways:
        if way.shape != start.shape:
            raise ValueError(f"ends must have {start.numel()} elements, as origin, not {way.numel()}")
    first, second = (way - start for way in ways)
    lengths = [float(first.norm()), float(second.norm())]
    if not all(lengths):
        raise ValueError("ends must differ from origin")
    first = first / lengths[0]
    across = second - (first @ second) * first
    across = across - (first @ across) * first
    if float(across.norm()) <= LEAST_ANGLE * lengths[1]:
        raise ValueError("origin and ends lie on one line: they span no plane")
    return Plane(start, torch.stack([first, across / across.norm()]))
