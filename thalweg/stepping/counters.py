"""Counters of optimizer state: one number each, of which dtype and where."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.storage.layout import has_memory


def counter_dtype() -> torch.dtype:
    """Return the dtype of counters: torch's, float64 where that is the default dtype and else float32."""
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32


def counter_device(param: Tensor, group: Mapping[str, Any]) -> torch.device:
    """Return where counters are kept: on the device where kernels advance them, or `capturable` says so."""
    # Imported with the first state: `import thalweg` stays light.
    from thalweg.lowering.gpu import tables as cuda

    has_kernel = has_memory(param) and not group.get("differentiable")
    there = (has_kernel and cuda.serves(param.device)) or group.get("capturable")
    return param.device if there else torch.device("cpu")


def to_counter(value: Any, device: Any) -> Tensor:
    """Return `value`, a number or a one-element tensor, as a counter: 0-dim, of `counter_dtype`.

    A tensor that needs no conversion keeps its memory, whatever its shape.
    """
    if isinstance(value, Tensor):
        whole = value if value.dim() == 0 else value.reshape(())
        return whole.resolve_neg().to(device=device, dtype=counter_dtype())
    return torch.full((), float(value), dtype=counter_dtype(), device=device)


def check_counter(name: str, value: Any) -> None:
    """Raise ValueError if a value is not one number."""
    is_one = value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, (Number, np.generic))
    if not is_one:
        said = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise ValueError(f"state {name!r} must be one number, not {said}")
