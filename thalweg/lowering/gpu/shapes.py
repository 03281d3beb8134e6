"""How a GPU kernel's work is shared out, by measurement (`benchmarks/gpu_tiles.py`)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from thalweg.lowering.spec import Spec


class Shape(NamedTuple):
    """What one program does.

    Args:
        repeats: tiles of a chunk at most, stepped one after another.
        tile: elements of a tile, which a program holds in registers at once.
        warps: how many share it.
        registers: most that a thread takes on NVIDIA's GPUs; 0 is the compiler's choice.
        ahead: whether the next tile's elements are fetched while one is computed.
    """

    repeats: int
    tile: int
    warps: int
    registers: int = 0
    ahead: bool = False

    @property
    def chunk(self) -> int:
        """Elements of a chunk at most."""
        return self.repeats * self.tile

    def options(self, backend: str) -> dict[str, Any]:
        """Return what Triton's compiler is told for a backend, `cuda` or another.

        Which products are fused is decided in the trace.
        """
        found: dict[str, Any] = {"num_warps": self.warps, "enable_fp_fusion": False}
        return {**found, "maxnreg": self.registers} if self.registers and backend == "cuda" else found


PLAIN = Shape(1, 1024, 4)
"""Memory is the limit."""

IN_BLOCKS = Shape(8, 256, 2)
"""Arithmetic and registers are the limit. What a thread does before its first element takes as long as a
tile, so a program steps several, and fewer threads wait for one another."""

MEASURED_IN_BLOCKS = Shape(1, 512, 4)


def shape_of(spec: Spec) -> Shape:
    """Return the shape of a kernel: weights of at least 16 bytes for each thread."""
    if not spec.blocks or spec.p.dtype != torch.float32:
        return PLAIN
    return MEASURED_IN_BLOCKS if spec.stage else IN_BLOCKS
