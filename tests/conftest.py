"""`THALWEG_TEST_TRITON=1` sends tensors on the CPU through the GPU's kernels, run by Triton's interpreter."""

from interpreter import INTERPRETED

if INTERPRETED:
    import numpy

    numpy.seterr(all="ignore")  # in kernels 0 ** t and overflows are no news
    from thalweg.lowering import cuda, tiles

    cuda.SERVED.add("cpu")
    # An operation takes the interpreter the same time whatever the size of a tile.
    tiles.TILE = 4096
