"""Questions about many tensors, asked of libtorch in one compiled loop.

Asked from Python, each question about a tensor costs 100 to 300 ns, and ten of them for each of 4,000
tensors cost more than the step. The answers come from the C interface that libtorch offers to
ahead-of-time compiled models (`torch/csrc/inductor/aoti_torch/c/shim.h`). Two functions are missing there
and are taken from the C++ library by name. Where one is not found, there is no library and Python asks.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from thalweg.lowering import machine

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
define i32 @read(ptr %impls, ptr %params, ptr %grads, ptr %kinds, i64 %count, ptr %functions, i32 %strided) {
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
  %moved = phi i32 [ 0, %entry ], [ %moved.now, %store ]
  %tensor = getelementptr ptr, ptr %impls, i64 %i
  %param.at = getelementptr ptr, ptr %params, i64 %i
  %grad.at = getelementptr ptr, ptr %grads, i64 %i
  %kind.at = getelementptr i8, ptr %kinds, i64 %i
  %then = load ptr, ptr %param.at
  call i32 %get.data.ptr(ptr %tensor, ptr %param.at)
  %now = load ptr, ptr %param.at
  %differs = icmp ne ptr %now, %then
  %moved.one = zext i1 %differs to i32
  %moved.now = or i32 %moved, %moved.one
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
  %answer = phi i32 [ 0, %entry ], [ %moved.now, %store ]
  ret i32 %answer
}

define i32 @moved(ptr %impls, ptr %known, i64 %count, ptr %functions) {
entry:
  %address.at = alloca ptr
  %get.data.ptr = load ptr, ptr %functions
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %i.next, %look ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %look, label %still
look:
  %tensor = getelementptr ptr, ptr %impls, i64 %i
  call i32 %get.data.ptr(ptr %tensor, ptr %address.at)
  %now = load ptr, ptr %address.at
  %cell = getelementptr ptr, ptr %known, i64 %i
  %then = load ptr, ptr %cell
  %equal = icmp eq ptr %now, %then
  %i.next = add nuw nsw i64 %i, 1
  br i1 %equal, label %next, label %gone
still:
  ret i32 0
gone:
  ret i32 1
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


class Library:
    """The functions of libtorch, and the compiled loops over them.

    Attributes:
        read: `read(impls, addresses, grad_addresses, kinds, count, functions, strided)`; see `Tensors`.
        moved: `moved(impls, known, count, functions)`; see `Memory`.
        bump: `bump(impls, count, functions)`; see `Tensors.bump`.
        functions: the argument of that name.
        strided: the argument of that name.
    """

    def __init__(self) -> None:
        home = Path(torch.__file__).parent / "lib"
        libraries = [ctypes.CDLL(str(home / name)) for name in ("libtorch_cpu.so", "libc10.so")]
        self._functions = machine.addresses_of([_find(libraries, name) for name in _FUNCTIONS])
        self.functions = self._functions.ctypes.data
        self.strided = libraries[0].aoti_torch_layout_strided()
        pointer, integer = ctypes.c_void_p, ctypes.c_int64
        names = ("read", "moved", "bump")
        read, moved, bump = machine.compile_to_address(_ASSEMBLY, names)
        # PYFUNCTYPE keeps the GIL: no other thread may take a gradient away meanwhile.
        self.read = ctypes.PYFUNCTYPE(ctypes.c_int32, *[pointer] * 4, integer, pointer, ctypes.c_int32)(read)
        self.moved = ctypes.PYFUNCTYPE(ctypes.c_int32, pointer, pointer, integer, pointer)(moved)
        self.bump = ctypes.PYFUNCTYPE(None, pointer, integer, pointer)(bump)
        self._new = _find(libraries, "aoti_torch_new_tensor_handle")
        self._delete = _find(libraries, "aoti_torch_delete_tensor_object")
        self._new.argtypes = (pointer, pointer)
        self._delete.argtypes = (pointer,)

    def handles(self, tensors: Sequence[Tensor]) -> np.ndarray:
        """Return new owning references to what is behind `tensors`, int64, for `release`."""
        impls = np.array([tensor._cdata for tensor in tensors], np.int64)
        handles = np.zeros(len(tensors), np.int64)
        for offset in range(0, impls.nbytes, impls.itemsize):
            self._new(impls.ctypes.data + offset, handles.ctypes.data + offset)
        return handles

    def release(self, handles: np.ndarray) -> None:
        """Give up what `handles` has made."""
        for handle in handles.tolist():
            self._delete(handle)


def _find(libraries: Sequence[ctypes.CDLL], name: str) -> ctypes._CFuncPtr:  # type: ignore[name-defined]
    for library in libraries:
        if hasattr(library, name):
            return getattr(library, name)
    raise AttributeError(name)


@cache
def library() -> Library | None:
    """Return the library, or None where a function is missing."""
    try:
        return Library()
    except (OSError, AttributeError):
        return None
