"""`THALWEG_TEST_TRITON=1` sends tensors on the CPU through the GPU's kernels, run by Triton's interpreter."""

import os

from support import INTERPRETED

if INTERPRETED:
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when it is imported
    import numpy

    numpy.seterr(all="ignore")  # in kernels 0 ** t and overflows are no news
    from thalweg.lowering import cuda

    cuda.SERVED.add("cpu")
