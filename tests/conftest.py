"""`THALWEG_TEST_TRITON=1` sends tensors on the CPU through the GPU's kernels, run by Triton's interpreter."""

from interpreter import INTERPRETED

if INTERPRETED:
    import numpy

    numpy.seterr(all="ignore")  # in kernels 0 ** t and overflows are no news
    from thalweg.lowering import cuda

    cuda.SERVED.add("cpu")
