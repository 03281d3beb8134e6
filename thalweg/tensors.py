"""Read all parameters and gradients of an optimizer at once.

A step has to know where every parameter and gradient lies and whether it is as it was. Asked from
Python, each question about a tensor costs 100 to 300 ns, and seven of them for each of 4,000 tensors
cost more than the step. The same questions are asked here in one compiled loop, of the C interface that
libtorch offers to ahead-of-time compiled models (`torch/csrc/inductor/aoti_torch/c/shim.h`). Two answers
are missing there and are taken from the C++ library by name. Where a function is missing, Python asks.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from operator import attrgetter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from thalweg.lowering import machine

ABSENT = -1
"""The kind of a gradient that is None."""

IRREGULAR = -2
"""The kind of a gradient that is sparse or not contiguous. Other kinds are dtypes."""

_FUNCTIONS = (
    "aoti_torch_get_data_ptr",
    "aoti_torch_is_defined",
    "aoti_torch_get_dtype",
    "aoti_torch_get_layout",
    "aoti_torch_is_contiguous",
    "_ZNK3c1010TensorImpl4gradEv",  # at::Tensor const& c10::TensorImpl::grad() const
    "_ZN5torch8autograd4impl12bump_versionERKN2at6TensorE",  # void bump_version(at::Tensor const&)
)

# An at::Tensor is a pointer to its TensorImpl, so a cell of the array `impls` is one.
_ASSEMBLY = """\
define void @read(ptr %impls, ptr %params, ptr %grads, ptr %kinds, i64 %count, ptr %functions, i32 %strided) {
entry:
  %flag = alloca i8
  %dtype = alloca i32
  %layout = alloca i32
  %get.data.ptr = load ptr, ptr %functions
  %is.defined.at = getelementptr ptr, ptr %functions, i64 1
  %is.defined = load ptr, ptr %is.defined.at
  %get.dtype.at = getelementptr ptr, ptr %functions, i64 2
  %get.dtype = load ptr, ptr %get.dtype.at
  %get.layout.at = getelementptr ptr, ptr %functions, i64 3
  %get.layout = load ptr, ptr %get.layout.at
  %is.contiguous.at = getelementptr ptr, ptr %functions, i64 4
  %is.contiguous = load ptr, ptr %is.contiguous.at
  %get.grad.at = getelementptr ptr, ptr %functions, i64 5
  %get.grad = load ptr, ptr %get.grad.at
  %empty = icmp eq i64 %count, 0
  br i1 %empty, label %done, label %next
next:
  %i = phi i64 [ 0, %entry ], [ %i.next, %store ]
  %tensor = getelementptr ptr, ptr %impls, i64 %i
  %param.at = getelementptr ptr, ptr %params, i64 %i
  %grad.at = getelementptr ptr, ptr %grads, i64 %i
  %kind.at = getelementptr i8, ptr %kinds, i64 %i
  call i32 %get.data.ptr(ptr %tensor, ptr %param.at)
  %impl = load ptr, ptr %tensor
  %grad = call ptr %get.grad(ptr %impl)
  store ptr null, ptr %grad.at
  call i32 %is.defined(ptr %grad, ptr %flag)
  %defined.byte = load i8, ptr %flag
  %defined = icmp ne i8 %defined.byte, 0
  br i1 %defined, label %look, label %store
look:
  call i32 %get.layout(ptr %grad, ptr %layout)
  %layout.value = load i32, ptr %layout
  %is.strided = icmp eq i32 %layout.value, %strided
  br i1 %is.strided, label %dense, label %store
dense:
  call i32 %is.contiguous(ptr %grad, ptr %flag)
  %contiguous.byte = load i8, ptr %flag
  %contiguous = icmp ne i8 %contiguous.byte, 0
  br i1 %contiguous, label %regular, label %store
regular:
  call i32 %get.dtype(ptr %grad, ptr %dtype)
  %dtype.value = load i32, ptr %dtype
  %dtype.byte = trunc i32 %dtype.value to i8
  call i32 %get.data.ptr(ptr %grad, ptr %grad.at)
  br label %store
store:
  %kind = phi i8 [ -1, %next ], [ -2, %look ], [ -2, %dense ], [ %dtype.byte, %regular ]
  store i8 %kind, ptr %kind.at
  %i.next = add nuw nsw i64 %i, 1
  %end = icmp eq i64 %i.next, %count
  br i1 %end, label %done, label %next
done:
  ret void
}

define void @bump(ptr %impls, i64 %count, ptr %functions) {
entry:
  %bump.version.at = getelementptr ptr, ptr %functions, i64 6
  %bump.version = load ptr, ptr %bump.version.at
  %empty = icmp eq i64 %count, 0
  br i1 %empty, label %done, label %next
next:
  %i = phi i64 [ 0, %entry ], [ %i.next, %next ]
  %tensor = getelementptr ptr, ptr %impls, i64 %i
  call void %bump.version(ptr %tensor)
  %i.next = add nuw nsw i64 %i, 1
  %end = icmp eq i64 %i.next, %count
  br i1 %end, label %done, label %next
done:
  ret void
}
"""


class _Library:
    """The functions of libtorch, and the compiled loops over them."""

    def __init__(self) -> None:
        home = Path(torch.__file__).parent / "lib"
        libraries = [ctypes.CDLL(str(home / name)) for name in ("libtorch_cpu.so", "libc10.so")]
        found = [_find(libraries, name) for name in _FUNCTIONS]
        self.functions = np.array(
            [ctypes.cast(function, ctypes.c_void_p).value for function in found], np.int64
        )
        self.address = self.functions.ctypes.data
        self.strided = libraries[0].aoti_torch_layout_strided()
        pointer, integer = ctypes.c_void_p, ctypes.c_int64
        read, bump = machine.compile_to_address(_ASSEMBLY, ("read", "bump"))
        # PYFUNCTYPE keeps the GIL: no other thread may take a gradient away meanwhile.
        self.read = ctypes.PYFUNCTYPE(None, *[pointer] * 4, integer, pointer, ctypes.c_int32)(read)
        self.bump = ctypes.PYFUNCTYPE(None, pointer, integer, pointer)(bump)


def _find(libraries: Sequence[ctypes.CDLL], name: str) -> ctypes._CFuncPtr:  # type: ignore[name-defined]
    for library in libraries:
        if hasattr(library, name):
            return getattr(library, name)
    raise AttributeError(name)


@cache
def _library() -> _Library | None:
    try:
        return _Library()
    except (OSError, AttributeError):
        return None


class Tensors:
    """The parameters of an optimizer in order, and what `read` last saw of them.

    Attributes:
        params: the parameters.
        addresses: int64 (n,), where each parameter's first element lies.
        grad_addresses: int64 (n,), the same of the gradient, if it is dense and contiguous, else 0.
        kinds: int8 (n,), `ABSENT`, `IRREGULAR`, or a number for the dtype of the gradient.
    """

    def __init__(self, params: list[Tensor]) -> None:
        self.params = params
        self.addresses = np.zeros(len(params), np.int64)
        self.grad_addresses = np.zeros(len(params), np.int64)
        self.kinds = np.full(len(params), ABSENT, np.int8)
        self._impls = np.zeros(len(params), np.int64)
        arrays = (self._impls, self.addresses, self.grad_addresses, self.kinds)
        self._arguments = (*(array.ctypes.data for array in arrays), len(params))
        self._compiled = all(map(_has_memory, params))

    def read(self) -> None:
        """Look at every parameter and gradient."""
        library = _library() if self._compiled else None
        if library is None:
            self._read_slowly()
            return
        # Not kept from step to step: `torch.utils.swap_tensors` changes what is behind a parameter.
        self._impls[:] = list(map(_impl, self.params))
        library.read(*self._arguments, library.address, library.strided)

    def _read_slowly(self) -> None:
        for i, param in enumerate(self.params):
            grad = param.grad
            self.kinds[i] = _kind(grad)
            if not _has_memory(param):
                continue
            self.addresses[i] = param.data_ptr()
            self.grad_addresses[i] = grad.data_ptr() if grad is not None and self.kinds[i] >= 0 else 0

    def bump(self, positions: slice | np.ndarray) -> None:
        """Tell autograd that the parameters at `positions` were changed in place.

        A backward pass that needs their old values then fails, as it has to.
        """
        library = _library() if self._compiled else None
        if library is None:
            chosen = np.arange(len(self.params))[positions]
            increment_version([self.params[i] for i in chosen])
            return
        impls = self._impls[positions]
        library.bump(impls.ctypes.data, len(impls), library.address)


def _has_memory(tensor: Tensor) -> bool:
    """Say whether a tensor is certain to be memory, and not a wrapper's subclass around other tensors."""
    return type(tensor) in (Tensor, torch.nn.Parameter)


_impl = attrgetter("_cdata")

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def _kind(grad: Tensor | None) -> int:
    if grad is None:
        return ABSENT
    if grad.layout != torch.strided or not grad.is_contiguous():
        return IRREGULAR
    return _DTYPES.index(grad.dtype) if grad.dtype in _DTYPES else len(_DTYPES)
