"""The lowering to LLVM, and the threads that run it."""
