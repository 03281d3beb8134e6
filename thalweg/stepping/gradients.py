"""Gradients that a parameter cannot be stepped with, and those that are placed otherwise than it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from thalweg.distributed.parts import brought, is_cut_alike, is_dtensor, part_of
from thalweg.storage.codecs import codec_of
from thalweg.storage.layout import has_version, overlaps_itself


def check(position: int, param: Tensor) -> None:
    """Raise if a parameter has a gradient that it cannot be stepped with."""
    grad: Any = param.grad
    if grad is None:
        return
    name = name_of(position, param)
    if codec_of(param.dtype) is None:
        raise TypeError(f"{name} must be floating point or complex, not {param.dtype}")
    if codec_of(grad.dtype) is None or grad.is_complex() != param.is_complex():
        raise TypeError(f"{name} is {param.dtype} and cannot take a {grad.dtype} gradient")
    if is_dtensor(grad) != is_dtensor(param):
        kinds = [type(one).__name__ for one in (param, grad)]
        raise TypeError(f"{name} is a {kinds[0]} and cannot take a {kinds[1]} as its gradient")
    if is_dtensor(param) and grad.device_mesh != param.device_mesh:
        raise ValueError(
            f"{name} lies on {param.device_mesh}, its gradient on {grad.device_mesh}; "
            "both must lie on the same mesh"
        )
    if grad.shape != param.shape:
        raise ValueError(f"{name} has a gradient of shape {tuple(grad.shape)}")
    if grad.layout not in (torch.strided, torch.sparse_coo):
        raise ValueError(f"{name} has a {grad.layout} gradient; strided or COO is allowed")
    if param.layout != torch.strided or overlaps_itself(param):
        raise ValueError(
            f"{name} has several elements in one place of memory "
            f"(strides {param.stride()}), as `expand` makes; step the tensor behind it"
        )
    if not (has_version(param) or torch.is_inference_mode_enabled()):
        raise RuntimeError(
            f"{name} was made in inference mode. Inplace update to inference tensor "
            "outside InferenceMode is not allowed; step it there, or step a clone that is made outside"
        )


def bring(params: Sequence[Any]) -> None:
    """Exchange gradients that are placed otherwise than their parameters, in the order of all processes."""
    for param in params:
        grad = param.grad if is_dtensor(param) else None
        if not is_dtensor(grad) or grad.device_mesh != param.device_mesh:
            continue
        if not (is_cut_alike(grad, param) and type(part_of(grad)) is Tensor):
            with torch.no_grad():
                param.grad = brought(grad, param)


def can_step(param: Tensor) -> bool:
    """Say whether a parameter can be stepped by any gradient."""
    if is_lazy(param):
        return False  # it has no shape to ask for
    return codec_of(param.dtype) is not None and param.layout == torch.strided and not overlaps_itself(param)


def name_of(position: int, param: Tensor) -> str:
    """Return what errors call a parameter."""
    return f"parameter {position} of shape {tuple(param.shape)}"
