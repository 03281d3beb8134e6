"""How maths becomes machine code: tracing, kernels, the torch reference. Knows no algorithm by name."""
