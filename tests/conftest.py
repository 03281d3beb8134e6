"""What holds for all tests, and `THALWEG_TEST_TRITON=1`.

That sends tensors on the CPU through the GPU's kernels, run by Triton's interpreter.
"""

import os
import tempfile

import hypothesis
from interpreter import INTERPRETED

# Before torch is imported. Threads that wait by spinning take the cores from those that they wait for, where
# several processes test, or anybody else computes.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# A deadline is a timed assertion, which a busy machine fails.
hypothesis.settings.register_profile(
    "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("patient")

if "TRITON_HOME" not in os.environ and not os.access(os.path.expanduser("~"), os.W_OK):
    # Triton caches at home, and has no other place unless it is told one.
    _folder = tempfile.TemporaryDirectory(prefix="thalweg-triton-")
    os.environ["TRITON_HOME"] = _folder.name

if INTERPRETED:
    import numpy
    from interpreter import hasten

    numpy.seterr(all="ignore")  # in kernels 0 ** t and overflows are no news
    hasten()
    from thalweg.lowering.gpu import shapes
    from thalweg.lowering.gpu import tables as cuda

    cuda.SERVED.add("cpu")
    # An operation takes the interpreter the same time whatever the size of a tile.
    shapes.PLAIN = shapes.MEASURED_IN_BLOCKS = shapes.Shape(1, 4096, 4)
    shapes.IN_BLOCKS = shapes.Shape(2, 2048, 4)
