"""How the measures of a stage are taken on a GPU: its kernels, and where they leave their sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.lowering.chunks import Chunks
from thalweg.lowering.gpu import tables as cuda
from thalweg.lowering.spec import Spec


class Taking:
    """What takes the measures of a stage.

    Args:
        spec: of the stage.
    """

    def __init__(self, spec: Spec) -> None:
        self.kernels = {aligned: cuda.measure_kernel(spec, aligned) for aligned in (True, False)}
        names = [one.name for one in spec.recipe.measures]
        own = [names.index(one.name) for one in spec.measures]
        self.first, self.count = own[0], len(own)
        assert own == list(range(self.first, self.first + self.count)), "measures lie stage by stage"
        self.totals = cuda.totals_kernel(self.count)
        self._parts: tuple[cuda.Sums, cuda.Sums] | None = None
        self._known: tuple[Any, bytes] | None = None

    @property
    def tensors(self) -> list[Tensor]:
        """What kernels read and write."""
        return [tensor for part in self._parts or () for tensor in part]

    def divide(
        self, chunks: Chunks, is_aligned: np.ndarray, device: torch.device
    ) -> tuple[cuda.Sums, cuda.Sums]:
        """Return the work, that of aligned tensors and the others', anew only where it has changed."""
        content = is_aligned.tobytes()
        if self._parts is None or self._known is None or self._known != (id(chunks), content):
            self._parts = cuda.sums_of(chunks, is_aligned, self.count, device)
            self._known, self._chunks = (id(chunks), content), chunks
        return self._parts
