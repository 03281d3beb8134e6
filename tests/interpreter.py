"""Says whether tensors on the CPU go through the GPU's kernels, run by Triton's interpreter.

`THALWEG_TEST_TRITON=1` sends them there. To be imported before torch.
"""

import os
from typing import TypeVar

T = TypeVar("T")

INTERPRETED = os.environ.get("THALWEG_TEST_TRITON") == "1"


def smaller(here: T, interpreted: T) -> T:
    """Return the second where the interpreter runs, which takes its time."""
    return interpreted if INTERPRETED else here


if INTERPRETED:
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when it is imported, be it by torch
