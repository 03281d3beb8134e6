"""Rows: which of them a gradient names, and tensors whose memory holds them one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def row_numbers(grad: Tensor | None) -> np.ndarray:
    """Return which row each of the values is, counting over all sparse dimensions."""
    if grad is None:
        return np.empty(0, np.int64)
    if grad.sparse_dim() == 1:
        return grad.indices()[0].cpu().numpy()
    number = torch.zeros(grad._nnz(), dtype=torch.int64, device=grad.device)
    for size, index in zip(grad.shape, grad.indices(), strict=False):
        number = number * size + index
    return number.cpu().numpy()


def row_major(tensor: Tensor) -> Tensor:
    """Return a tensor whose memory holds what it means, row after row; itself, if it does."""
    return tensor.resolve_conj().resolve_neg().contiguous()


def reals(tensor: Tensor) -> int:
    """Return how many real numbers a tensor is made of."""
    return tensor.numel() * (2 if tensor.is_complex() else 1)


def put_back(tensors: Any, stepped: Any) -> None:
    """Write what was stepped in copies to where it comes from, and tell autograd."""
    for tensor, copy in zip(tensors, stepped, strict=True):
        if copy is not tensor:
            tensor.copy_(copy)
    torch.autograd.graph.increment_version(tensors)
