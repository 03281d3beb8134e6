"""Tensors as one vector and back, and losses as functions of weights."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Weights = Tensor | Sequence[Tensor]
"""Tensors in a fixed order, or all their elements in one vector."""

Closure = Callable[[], Tensor]
"""Evaluates the loss of a batch at the parameters as they are: a tensor of one element."""

Losses = Closure | Sequence[Closure]
"""The loss of one batch, or those of several, whose mean is meant."""


def flat(weights: Weights, dtype: torch.dtype | None = None) -> Tensor:
    """All elements in one vector, detached, a copy where need be; row-sparse tensors with all their zeros.

    Args:
        weights: tensors, or such a vector.
        dtype: of the result; None for the one that the tensors have in common.

    Raises:
        ValueError: there are none, or one is complex.
    """
    tensors = [weights] if isinstance(weights, Tensor) else list(weights)
    if not tensors:
        raise ValueError("weights must be at least one tensor, not none")
    if any(one.is_complex() for one in tensors):
        raise ValueError("weights must be real: the curvature of complex ones is not defined here")
    found = tensors[0].dtype
    for one in tensors[1:]:
        found = torch.promote_types(found, one.dtype)
    dense = (one.detach().to_dense() if one.is_sparse else one.detach() for one in tensors)
    return torch.cat([one.reshape(-1).to(dtype or found) for one in dense])


def parts(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The elements of a vector in the shapes, dtypes and places of `like`.

    Raises:
        ValueError: their numbers differ.
    """
    sizes = [one.numel() for one in like]
    if vector.numel() != sum(sizes):
        raise ValueError(f"vector must have {sum(sizes)} elements, not {vector.numel()}")
    pieces = vector.reshape(-1).split(sizes)
    return [piece.reshape(one.shape).to(one) for piece, one in zip(pieces, like, strict=True)]


def closures(loss_fn: Losses) -> list[Closure]:
    """The losses of all batches.

    Raises:
        ValueError: there are none.
    """
    found = [loss_fn] if callable(loss_fn) else list(loss_fn)
    if not found:
        raise ValueError("loss_fn must be a closure or several, not none")
    return found


def evaluated_at(params: Sequence[Tensor], loss_fn: Losses) -> Callable[[Weights], Tensor]:
    """The loss as a function of weights, as `barrier` and `Plane.losses` take it.

    Args:
        params: which are given these weights for each evaluation, and their own back after it.
        loss_fn: the loss of a batch at `params`, or of several.

    Returns:
        What takes weights, one vector or tensors in the order of `params`, to the loss of each batch,
        float64 of shape (batches,) on the CPU, without gradients.
    """
    params, losses = list(params), closures(loss_fn)

    @torch.no_grad()
    def evaluate(weights: Weights) -> Tensor:
        kept = [param.detach().clone() for param in params]
        try:
            for param, value in zip(params, parts(flat(weights), params), strict=True):
                param.copy_(value)
            return torch.tensor([float(loss()) for loss in losses], dtype=torch.float64)
        finally:
            for param, value in zip(params, kept, strict=True):
                param.copy_(value)

    return evaluate
