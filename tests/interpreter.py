"""Says whether tensors on the CPU go through the GPU's kernels, run by Triton's interpreter.

`THALWEG_TEST_TRITON=1` sends them there. To be imported before torch.
"""

import os

INTERPRETED = os.environ.get("THALWEG_TEST_TRITON") == "1"

if INTERPRETED:
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when it is imported, be it by torch
