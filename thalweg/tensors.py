"""The tensors of an optimizer, looked at all at once: where they lie and of what kind they are."""

from __future__ import annotations

import weakref

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from thalweg.layout import has_memory
from thalweg.lowering import libtorch
from thalweg.lowering.objects import Identities

ABSENT = -1
"""The kind of a gradient that is None."""

IRREGULAR = -2
"""The kind of a gradient that is sparse or not contiguous. Other kinds are dtypes."""


class Tensors:
    """The parameters of an optimizer in order, and what `read` last saw of them.

    Attributes:
        params: the parameters.
        addresses: int64 (n,), where each parameter's first element lies.
        grad_addresses: int64 (n,), the same of the gradient, if it is dense and contiguous, else 0.
        generation: changes whenever `addresses` do.
        kinds: int8 (n,), `ABSENT`, `IRREGULAR`, or a number for the dtype of the gradient.
    """

    def __init__(self, params: list[Tensor]) -> None:
        self.params = params
        self.addresses = np.zeros(len(params), np.int64)
        self.grad_addresses = np.zeros(len(params), np.int64)
        self.generation = 0
        self.kinds = np.full(len(params), ABSENT, np.int8)
        self._impls = np.zeros(len(params), np.int64)
        arrays = (self._impls, self.addresses, self.grad_addresses, self.kinds)
        self._arguments = (*(array.ctypes.data for array in arrays), len(params))
        self._objects = Identities(params)
        self._compiled = all(map(has_memory, params))

    def read(self) -> None:
        """Look at every parameter and gradient."""
        library = libtorch.library() if self._compiled else None
        if library is None:
            self._read_slowly()
            return
        # Not kept from step to step: `torch.utils.swap_tensors` changes what is behind a parameter.
        self._objects.read("_cdata", self._impls)
        if library.read(*self._arguments, library.functions, library.strided):
            self.generation += 1

    def _read_slowly(self) -> None:
        before = self.addresses.copy()
        for i, param in enumerate(self.params):
            grad = param.grad
            self.kinds[i] = _kind(grad)
            if not has_memory(param):
                continue
            self.addresses[i] = param.data_ptr()
            self.grad_addresses[i] = grad.data_ptr() if grad is not None and self.kinds[i] >= 0 else 0
        if (self.addresses != before).any():
            self.generation += 1

    def bump(self, positions: slice | np.ndarray) -> None:
        """Tell autograd that the parameters at `positions`, an index or the slice of all, were changed.

        A backward pass that needs their old values then fails, as it has to.
        """
        library = libtorch.library() if self._compiled else None
        if library is None:
            chosen = np.arange(len(self.params))[positions]
            increment_version([self.params[i] for i in chosen])
            return
        if isinstance(positions, slice):
            library.bump(self._arguments[0], self._arguments[-1], library.functions)
            return
        impls = self._impls[positions]
        library.bump(impls.ctypes.data, len(impls), library.functions)


class Memory:
    """Watches where tensors lie, to notice that the memory behind one was exchanged.

    Args:
        tensors: the tensors; CPU, strided. They are kept alive.
    """

    def __init__(self, tensors: list[Tensor]) -> None:
        self._tensors = tensors
        self._known = np.array([tensor.data_ptr() for tensor in tensors], np.int64)
        library = libtorch.library()
        if library is None:
            return
        # Owning references, not bare addresses, which could be left dangling. Their price is that
        # `torch.utils.swap_tensors` refuses to swap a state tensor that has been stepped.
        weakref.finalize(self, library.release, library.handles(tensors))
        self._impls = np.array([tensor._cdata for tensor in tensors], np.int64)
        self._arguments = (
            self._impls.ctypes.data,
            self._known.ctypes.data,
            len(tensors),
            library.functions,
        )

    def moved(self) -> bool:
        """Say whether any tensor lies elsewhere than it did at first."""
        library = libtorch.library()
        if library is None:
            return [tensor.data_ptr() for tensor in self._tensors] != self._known.tolist()
        return bool(library.moved(*self._arguments))


_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def _kind(grad: Tensor | None) -> int:
    if grad is None:
        return ABSENT
    if grad.layout != torch.strided or not grad.is_contiguous():
        return IRREGULAR
    return _DTYPES.index(grad.dtype) if grad.dtype in _DTYPES else len(_DTYPES)
