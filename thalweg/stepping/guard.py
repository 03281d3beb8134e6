"""Counts the steps that were not taken because gradients were not finite, and says so."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.lowering.gpu import tables as cuda
from thalweg.stepping.scaling import Scaling

GROUP_KEY = "skip_nonfinite"
"""The key of a group that says how many steps in a row may be skipped."""


class Guard:
    """Counts skipped steps, all of them and those in a row.

    On a device they are counted there, and what the host knows is a copy that was asked for at an earlier
    step, so that nothing is waited for.
    """

    def __init__(self) -> None:
        self._host = [0, 0]
        self._device: Tensor | None = None
        self._copy: Tensor | None = None
        self._arrived: Any = None
        self._is_told = False

    @property
    def skipped(self) -> int:
        """All that were skipped; waits for a device."""
        return self._host[0] + (0 if self._device is None else int(self._device[0]))

    def notice(self, refused: Tensor | float, groups: Sequence[Mapping[str, Any]]) -> None:
        """Take note of a step that was made, or not if `refused` is not zero.

        Raises:
            FloatingPointError: if as many steps in a row as the groups allow were skipped.
        """
        limit = min(int(group[GROUP_KEY]) for group in groups if group.get(GROUP_KEY) is not None)
        if isinstance(refused, Tensor) and not Scaling(found_inf=refused).is_on_host:
            self._count_on_device(refused)
            self._look(limit)
            return
        if not refused:
            self._host[1] = 0
            return
        self._host = [self._host[0] + 1, self._host[1] + 1]
        self._tell(self._host[1], limit)

    def _count_on_device(self, refused: Tensor) -> None:
        if self._device is None:
            self._device = torch.zeros(2, dtype=torch.int64, device=refused.device)
        is_refused = (refused > 0).to(torch.int64)
        self._device[0] += is_refused
        self._device[1] += 1
        self._device[1] *= is_refused

    def _look(self, limit: int) -> None:
        """Read the copy that was asked for before, if it has arrived, and ask for another one."""
        assert self._device is not None, "it was counted there"
        if cuda.is_capturing(self._device.device):
            return
        if self._arrived is None or self._arrived.query():
            in_a_row = 0 if self._copy is None else int(self._copy.numpy()[1])
            self._copy, self._arrived = cuda.fetch(self._device)
            if in_a_row:
                self._tell(in_a_row, limit)

    def _tell(self, in_a_row: int, limit: int) -> None:
        if in_a_row >= limit:
            raise FloatingPointError(
                f"the gradients of {in_a_row} steps in a row were not all finite, and {GROUP_KEY}={limit}: "
                "no such step was taken, and weights and state are as they were before them"
            )
        if not self._is_told:
            self._is_told = True
            warnings.warn(
                "a step was skipped because its gradients are not all finite; this is said once, and "
                "`optimizer.skipped_steps` counts them",
                stacklevel=2,
            )
