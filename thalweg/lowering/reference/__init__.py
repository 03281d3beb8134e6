"""The rule on torch tensors: any device, dtype and subclass; the lowerings are tried against it."""
