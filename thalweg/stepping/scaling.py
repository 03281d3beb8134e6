"""What a `torch.amp.GradScaler` has to say in a step that is to unscale by itself (`fused=True`)."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor


class Scaling:
    """The scale that gradients carry, and whether they overflowed.

    Args:
        scale: 0-dim tensor or number by which the loss was multiplied; None where gradients have been
            unscaled already, or never were scaled.
        found_inf: likewise, 0 if all gradients are finite; None without a GradScaler.
    """

    def __init__(self, scale: Tensor | float | None = None, found_inf: Tensor | float | None = None) -> None:
        self.scale = scale
        self.found_inf = found_inf

    @property
    def overflowed_on_host(self) -> bool:
        """Whether this step must not be taken, and that is known without waiting for a device."""
        return self.found_inf is not None and self.is_on_host and self._overflowed

    def on_host(self) -> Scaling:
        """Return what a device knows as numbers of the host; waits for it."""
        return self if self is NO_SCALING else Scaling(_number(self.scale), _number(self.found_inf))

    @property
    def is_on_host(self) -> bool:
        """Whether `found_inf` can be read without waiting for a device."""
        return not isinstance(self.found_inf, Tensor) or self.found_inf.device.type == "cpu"

    @property
    def overflowed(self) -> bool:
        """Whether this step must not be taken; waits for the device that knows."""
        return self.found_inf is not None and self._overflowed

    @cached_property
    def _overflowed(self) -> bool:
        return float(self.found_inf or 0.0) != 0

    @cached_property
    def inverse(self) -> float | None:
        """What gradients have to be multiplied by, if anything; waits for the device that knows."""
        return None if self.scale is None else 1.0 / float(self.scale)


def _number(value: Tensor | float | None) -> float | None:
    return None if value is None else float(value)


NO_SCALING = Scaling()
"""Of a step that no GradScaler has a part in."""


def as_tensor(value: Any) -> Tensor:
    """Return a number as a tensor of the host's, whatever torch's default device is; a tensor as it is."""
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64, device="cpu")
