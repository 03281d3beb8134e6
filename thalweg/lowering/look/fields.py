"""Where libtorch keeps what a tensor is: found out on tensors that are known, and then relied on.

Sizes, strides, dtype, device and the like lie in a tensor as plain words. libtorch promises no places for
them, so they are looked for once in a process (`finding.py`), on tensors made for it, and what is read there
is compared with what torch says of others. If anything is not as expected, there are no fields, and Python
asks torch.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from thalweg.lowering import machine
from thalweg.lowering.look import finding
from thalweg.lowering.look.finding import words_at, words_of

NAMES = (
    "impl",  # bytes from a tensor's Python object to the pointer to libtorch's
    "borrowed",  # the same to a flag that says that the pointer is to something else; -1 if there is none
    "sizes",  # bytes from libtorch's tensor to its number of dimensions, which its sizes follow
    "meta_mask",  # the bits of the word `META` that are dtype and device
    "storage",  # bytes from libtorch's tensor to the pointer to its storage
    "data",  # bytes from a storage to the pointer to its memory
    "deleter",  # bytes from a storage to the function that frees it
    "cow_deleter",  # that function of memory that is copied when it is written
    "item_sizes",  # table of the bytes of an element by the lowest byte of `META`
    "grad",  # function: const Tensor& of libtorch's tensor
    "undefined",  # libtorch's tensor that is none
    "params",  # the string "params"
    "tensor_type",
    "parameter_type",
    "object",  # bytes from libtorch's tensor to the pointer to Python's, whose lowest bit says who owns which
    "dtensor_type",  # the class of tensors that processes share; 0 until one was looked at
    "part",  # bytes from such a tensor's object to the pointer to the part of this process
    "placing",  # the same to what says how it is cut
    "version",  # bytes from libtorch's tensor to the pointer to its version counter
)

TYPE = 8  # bytes from a Python object to the pointer to its type

# Words from the number of dimensions on.
INLINE = 5
OFFSET, NUMEL, META, KEYS = 11, 12, 13, 14

_GRAD = "_ZNK3c1010TensorImpl4gradEv"  # at::Tensor const& c10::TensorImpl::grad() const
_BUMP = "_ZN5torch8autograd4impl12bump_versionERKN2at6TensorE"  # void bump_version(at::Tensor const&)


class Fields:
    """The places, and functions of libtorch.

    Attributes:
        table: address of the values of `NAMES`, int64.
        bump_version: address of `void (const Tensor&)`, which tells autograd that a tensor was written.

    Raises:
        LookupError, OSError: if something is not where it is looked for.
    """

    def __init__(self) -> None:
        impl, borrowed = finding.impl_field()
        sizes = finding.sizes_field()
        self._items = finding.item_sizes(sizes // 8 + META)
        storage, data = finding.storage_fields()
        home, suffix = Path(torch.__file__).parent / "lib", "dylib" if sys.platform == "darwin" else "so"
        libraries = [ctypes.CDLL(str(home / f"{name}.{suffix}")) for name in ("libtorch_cpu", "libc10")]
        self._grad = finding.function_in(libraries, _GRAD)
        self.bump_version: int = finding.function_in(libraries, _BUMP)
        ask = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(self._grad)
        values = {
            "impl": impl,
            "borrowed": borrowed,
            "sizes": sizes,
            "meta_mask": finding.meta_mask(sizes // 8 + META),
            "storage": storage,
            "data": data,
            "deleter": data + 8,
            "cow_deleter": finding.cow_deleter(storage, data + 8),
            "item_sizes": self._items.ctypes.data,
            "grad": self._grad,
            "undefined": words_at(ask(torch.zeros(1)._cdata), 1)[0],
            "params": id(_PARAMS),
            "tensor_type": id(Tensor),
            "parameter_type": id(torch.nn.Parameter),
            "object": finding.object_field(),
            "dtensor_type": 0,
            "part": 0,
            "placing": 0,
            "version": finding.version_field(storage),
        }
        self._table = np.array([values[name] for name in NAMES], np.int64)
        self.table: int = self._table.ctypes.data
        _check(self._table, self._items)

    def know_dtensors(self, tensor: Any) -> bool:
        """Learn from a shared tensor where all of them keep their part; say whether it was found."""
        if self._table[NAMES.index("dtensor_type")] == id(type(tensor)):
            return True
        # Of what torch's `__slots__` name, Python keeps the pointers in the object itself.
        words = words_at(id(tensor), type(tensor).__basicsize__ // 8)
        found = [[i for i, word in enumerate(words) if word == id(one)] for one in _inside(tensor)]
        if any(len(places) != 1 for places in found):
            return False
        for name, places in zip(("part", "placing"), found, strict=True):
            self._table[NAMES.index(name)] = 8 * places[0]
        self._table[NAMES.index("dtensor_type")] = id(type(tensor))
        return True


def _inside(tensor: Any) -> tuple[Any, Any]:
    return tensor._local_tensor, tensor._spec


_PARAMS = "params"


@machine.Once
def known() -> Fields | None:
    """Return the fields; None where they are not to be found, or no walk can be compiled that reads them."""
    if machine.obstacle():
        return None
    try:
        with _plainly():
            return Fields()
    except (LookupError, OSError, ValueError):
        return None


@contextmanager
def _plainly() -> Iterator[None]:
    """Have torch make plain tensors of the host's, whatever mode the first step is taken in."""
    with ExitStack() as stack:
        stack.enter_context(_disable_current_modes())
        stack.enter_context(torch._C.DisableTorchFunction())
        stack.enter_context(torch.inference_mode(False))
        before = torch.get_default_dtype()
        stack.callback(torch.set_default_dtype, before)
        torch.set_default_dtype(torch.float32)
        yield


def _check(table: np.ndarray, items: np.ndarray) -> None:
    """Compare what the fields say with what torch does, on tensors of many kinds.

    Raises:
        LookupError: if they differ.
    """
    value = dict(zip(NAMES, table.tolist(), strict=True))
    base = torch.zeros(3, 4, 5)
    tensors = [base, base.transpose(0, 2), base[1:, 2:], torch.zeros(()), torch.zeros(0, 3), base[:, 1]]
    tensors += [torch.zeros(1, 2, 1, 2, 1, 3, 2), torch.zeros(3, dtype=torch.bfloat16)[1:]]
    tensors += [torch.zeros(5, dtype=dtype)[2:] for dtype in (torch.int8, torch.complex128, torch.float16)]
    for tensor in tensors:
        words = words_of(tensor)[value["sizes"] // 8 :]
        dims = tensor.dim()
        inside = words[1 : 1 + 2 * INLINE] if dims <= INLINE else words_at(words[1], 2 * dims)
        room = INLINE if dims <= INLINE else dims
        shape, strides = inside[:dims], inside[room : room + dims]
        base_address = words_at(words_of(tensor)[value["storage"] // 8] + value["data"], 1)[0]
        address = base_address + words[OFFSET] * int(items[words[META] & 255]) if base_address else 0
        said = [words[0], shape, strides, words[NUMEL], address if tensor.numel() else 0]
        asked: list[Any] = [dims, list(tensor.shape), list(tensor.stride()), tensor.numel()]
        if said != [*asked, tensor.data_ptr() if tensor.numel() else 0]:
            raise LookupError("a tensor's fields")
    keys = value["sizes"] // 8 + KEYS
    kinds = [torch.zeros(2, 2), torch._neg_view(torch.zeros(2, 2)), torch.zeros(2, 2).to_sparse()]
    kinds += [torch.zeros(2, 2, dtype=torch.complex64).conj(), torch.zeros(2, 2, device="meta")]
    with torch.inference_mode():
        kinds.append(torch.zeros(2, 2))
    if len({words_of(kind)[keys] for kind in kinds}) != len(kinds):
        raise LookupError("dispatch keys")
