"""Engines: how a batch is stepped on its device."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from thalweg.lowering import machine
from thalweg.lowering.chunks import Chunks
from thalweg.lowering.gpu import tables as cuda
from thalweg.lowering.spec import Spec
from thalweg.stepping.engines.cpu import CpuEngine, Keys
from thalweg.stepping.engines.device import DeviceEngine
from thalweg.stepping.member import Member
from thalweg.stepping.scaling import Scaling
from thalweg.stepping.settings import AllSettings
from thalweg.storage.codecs import Codec

__all__ = ["CpuEngine", "DeviceEngine", "Engine", "Keys", "engine_for"]


class Engine(Protocol):
    """Steps the tensors of a batch.

    Attributes:
        skips: whether it asks on its device whether gradients overflowed.
        measured: elements of a chunk of a measure, a constant, so that sums are made over the same stretches.
        measures: float64 (members, measures of the recipe), what was measured last, on the device.
    """

    skips: ClassVar[bool]
    measured: ClassVar[int]
    measures: Tensor

    def __init__(
        self, spec: Spec, members: Sequence[Member], addresses: np.ndarray, firsts: np.ndarray
    ) -> None:
        """Make ready to step `members`.

        Args:
            spec: what is done with them.
            members: theirs.
            addresses: int64 (streams, members), where memory begins: of `p`, `g`, the slots, the sides and
                the counters. Read at every launch. A gradient that is missing is at 0.
            firsts: int32, whether the state of a parameter is new, by its position; cleared by steps.
        """
        ...

    @staticmethod
    def supports(codec: Codec | None) -> bool:
        """Say whether kernels of this engine read and write `codec`."""
        ...

    def chunk(self, elements: int) -> int:
        """Return the most elements of a chunk where a step takes `elements` of them."""
        ...

    def measure(self, stage: str, chunks: Chunks, settings: AllSettings, scaling: Scaling) -> None:
        """Take the measures of a stage of the recipe, a sum for each member; 0 of what has no gradient.

        Args:
            stage: the stage.
            chunks: the work, of `measured` elements.
            settings: of the groups.
            scaling: GradScaler's.
        """
        ...

    def total(self, name: str) -> Tensor | float:
        """Return the sum of a measure over all members; a tensor where to know it would be to wait."""
        ...

    def share(self, name: str, total: Tensor | float) -> None:
        """Have all members read `total` for a measure."""
        ...

    def launch(self, chunks: Chunks, settings: AllSettings, scaling: Scaling) -> None:
        """Step all tensors that have gradients.

        Args:
            chunks: the work.
            settings: of the groups.
            scaling: GradScaler's.
        """
        ...


def engine_for(device: torch.device) -> type[CpuEngine] | type[DeviceEngine] | None:
    """Return what steps tensors on `device`, if there is anything but the reference."""
    if cuda.serves(device):
        return DeviceEngine
    if device.type in cuda.SERVED:
        _tell_once(f"{cuda.obstacle(device)}: the reference steps tensors there, one by one, which is slow")
    if device.type == "cpu" and machine.obstacle():
        _tell_once(f"{machine.obstacle()}: the reference steps tensors one by one, which is slow")
        return None
    return CpuEngine if device.type == "cpu" else None


@cache
def _tell_once(message: str) -> None:
    warnings.warn(message, stacklevel=2)
