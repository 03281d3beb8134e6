"""The lowering to Triton, and the tables that its kernels read."""
