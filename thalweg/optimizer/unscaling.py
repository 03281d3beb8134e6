"""Steps in backward under a `torch.amp.GradScaler`: gradients carry its scale, and may have overflowed.

A GradScaler looks at all gradients, and then steps or does not. Here each part of a step looks at its own,
and the first overflow ends the stepping until `scaler.step(optimizer)` has heard of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class Unscaling:
    """What a GradScaler is asked and told while gradients arrive.

    Args:
        scaler: which scales the loss.

    Raises:
        TypeError: if it is no `torch.amp.GradScaler`.
    """

    def __init__(self, scaler: torch.amp.GradScaler) -> None:
        if not isinstance(scaler, torch.amp.GradScaler):
            raise TypeError(f"scaler must be a torch.amp.GradScaler or None, not {scaler!r}")
        self._scaler = scaler
        self._found: Tensor | None = None

    @contextmanager
    def of(self, optimizer: Any, params: Iterable[Tensor]) -> Iterator[None]:
        """Have what the optimizer steps in the `with` block unscaled, and nothing stepped after an overflow.

        Waits for no device.

        Args:
            optimizer: that takes `grad_scale` and `found_inf`.
            params: what will be stepped; their gradients are looked at.
        """
        if not self._scaler.is_enabled():
            yield
            return
        self._look(params)
        optimizer.grad_scale, optimizer.found_inf = self._scaler._get_scale_async(), self._found
        try:
            yield
        finally:
            del optimizer.grad_scale, optimizer.found_inf

    def tell(self, optimizer: Any) -> None:
        """Tell the scaler, which steps the optimizer now, whether there was an overflow since it last did."""
        if self._found is not None:
            found: dict[Any, Any] = self._scaler._found_inf_per_device(optimizer)
            device = self._found.device
            found[device] = self._found + found.get(device, 0.0)  # what waited for `step` was looked at
        self._found = None

    @torch.no_grad()
    def _look(self, params: Iterable[Tensor]) -> None:
        alike = defaultdict(list)
        for param in params:
            grad = param.grad
            if grad is None:  # another's hook took it
                continue
            if grad.is_sparse:
                # What overflows when its summands are added is to be seen.
                grad = param.grad = grad.coalesce()
                grad = grad._values()
            alike[grad.dtype].append(torch.view_as_real(grad) if grad.is_complex() else grad)
        for grads in alike.values():
            if self._found is None:
                self._found = torch.zeros((), device=grads[0].device)
            torch._amp_foreach_non_finite_check_and_unscale_(grads, self._found, torch.ones_like(self._found))
