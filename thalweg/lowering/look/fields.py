"""Where libtorch keeps what a tensor is: found out on tensors that are known, and then relied on.

Sizes, strides, dtype, device and the like lie in a tensor as plain words. libtorch promises no places for
them, so they are looked for once in a process, on tensors made for it, and what is read there is compared
with what torch says of others. If anything is not as expected, there are no fields, and Python asks torch.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from thalweg.lowering import machine

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

_REACH = 40  # words of a tensor that are looked through
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
        impl, borrowed = _impl_field()
        sizes = _sizes_field()
        self._items = np.zeros(256, np.int64)
        for dtype in _DTYPES:
            self._items[_tensor(torch.empty(0, dtype=dtype))[sizes // 8 + META] & 255] = dtype.itemsize
        storage, data = _storage_fields()
        home, suffix = Path(torch.__file__).parent / "lib", "dylib" if sys.platform == "darwin" else "so"
        libraries = [ctypes.CDLL(str(home / f"{name}.{suffix}")) for name in ("libtorch_cpu", "libc10")]
        self._grad = _find(libraries, _GRAD)
        self.bump_version: int = _find(libraries, _BUMP)
        ask = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(self._grad)
        values = {
            "impl": impl,
            "borrowed": borrowed,
            "sizes": sizes,
            "meta_mask": _meta_mask(sizes),
            "storage": storage,
            "data": data,
            "deleter": data + 8,
            "cow_deleter": _cow_deleter(storage, data + 8),
            "item_sizes": self._items.ctypes.data,
            "grad": self._grad,
            "undefined": _words(ask(torch.zeros(1)._cdata), 1)[0],
            "params": id(_PARAMS),
            "tensor_type": id(Tensor),
            "parameter_type": id(torch.nn.Parameter),
            "object": _object_field(),
            "dtensor_type": 0,
            "part": 0,
            "placing": 0,
            "version": _version_field(storage),
        }
        self._table = np.array([values[name] for name in NAMES], np.int64)
        self.table: int = self._table.ctypes.data
        _check(self._table, self._items)

    def know_dtensors(self, tensor: Any) -> bool:
        """Learn from a shared tensor where all of them keep their part; say whether it was found."""
        if self._table[NAMES.index("dtensor_type")] == id(type(tensor)):
            return True
        # Of what torch's `__slots__` name, Python keeps the pointers in the object itself.
        words = _words(id(tensor), type(tensor).__basicsize__ // 8)
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


def _words(address: int, count: int) -> list[int]:
    return list((ctypes.c_int64 * count).from_address(address))


def _tensor(tensor: Tensor) -> list[int]:
    return _words(tensor._cdata, _REACH)


def _find(libraries: Sequence[ctypes.CDLL], name: str) -> int:
    for library in libraries:
        if hasattr(library, name):
            address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
            assert address is not None
            return address
    raise LookupError(name)


_DTYPES = (
    *(torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex128, torch.complex64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
"""Those that are looked at; of others an element counts as none, and where it lies is not known."""


def _impl_field() -> tuple[int, int]:
    """Return where a Python object has libtorch's tensor, and where the flag is that it is borrowed."""
    ones = [torch.zeros(1), torch.nn.Parameter(torch.zeros(2)), torch.zeros(3)[1:], torch.zeros(2).double()]
    places = [
        i for i in range(2, 6) if all(_words(id(t), 6)[i] == t._cdata for t in ones)
    ]  # the first two words are Python's
    if not places:
        raise LookupError("libtorch's tensor in Python's")
    place = places[0]
    # Older versions keep a flag in the word before, 0 of a pointer of its own.
    has_flag = place == 3 and all(_words(id(t), 6)[2] & 255 == 0 for t in ones)
    return 8 * place, 8 * (place - 1) if has_flag else -1


def _sizes_field() -> int:
    tensor = torch.empty(1, 3 * 5 * 7 + 11).view(-1)[11:].view(3, 5, 7).transpose(0, 1)
    expected = [3, 5, 3, 7, 0, 0, 7, 35, 1, 0, 0, 11, 105]
    words = _tensor(tensor)
    for place in range(2, _REACH - len(expected) - 2):
        if words[place : place + len(expected)] == expected:
            return 8 * place
    raise LookupError("sizes and strides")


def _storage_fields() -> tuple[int, int]:
    """Return where a tensor has its storage, and a storage its memory."""
    tensors = [torch.empty(n) for n in (3, 70, 5)]
    for place in range(2, 6):
        pointers = [_tensor(t)[place] for t in tensors]
        if any(pointer <= 4096 or pointer % 8 for pointer in pointers):
            continue
        if all(pointer == t.untyped_storage()._cdata for pointer, t in zip(pointers, tensors, strict=True)):
            found = [i for i in range(2, 6) if _holds_memory(tensors, pointers, i)]
            if found:
                return 8 * place, 8 * found[0]
    raise LookupError("storage")


def _holds_memory(tensors: Sequence[Tensor], storages: Sequence[int], place: int) -> bool:
    return all(_words(s, 6)[place] == t.data_ptr() for t, s in zip(tensors, storages, strict=True))


def _cow_deleter(storage: int, deleter: int) -> int:
    """Return the function that frees memory which is copied when it is written; -1 where there is none."""
    if not hasattr(torch, "_lazy_clone"):
        return -1
    plain = torch.zeros(2)
    lazy = torch._lazy_clone(plain)
    frees = [_words(_tensor(t)[storage // 8] + deleter, 2) for t in (plain, lazy, torch.zeros(2))]
    # Memory's pointers are: to it, to what it is freed by, the function that does so.
    for one, other, usual in zip(*frees, strict=True):
        if one == other != usual:
            return one
    raise LookupError("copies on writing")


def _object_field() -> int:
    """Return where libtorch's tensor has Python's."""
    ones = [torch.zeros(1), torch.nn.Parameter(torch.zeros(2)), torch.zeros(3)[1:], torch.zeros(2).double()]
    for place in range(2, _REACH):
        if all(_tensor(one)[place] & ~1 == id(one) for one in ones):
            return 8 * place
    raise LookupError("Python's tensor in libtorch's")


def _version_field(storage: int) -> int:
    """Return where a tensor has its version counter, which `detach` shares as it does the storage."""
    one = torch.zeros(3)
    words = zip(_tensor(one), _tensor(one.detach()), _tensor(torch.zeros(3)), strict=True)
    shared = (i for i, (a, b, other) in enumerate(words) if a == b != other and 8 * i != storage)
    # Only what is asked for ahead goes by it, and that may be anything.
    return 8 * next(shared, 0)


def _meta_mask(sizes: int) -> int:
    """Return the bits that tell dtypes and devices from each other, and are alike where these are."""
    place = sizes // 8 + META
    base = torch.zeros(4, 6)
    alike = [
        base.t(),
        base[1:],
        base.detach(),
        base.data,
        torch.nn.Parameter(base),
        base.view(2, 12),
        base + 1,
    ]
    alike += [
        torch.zeros(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
        torch.zeros(()),
        base[:0],
    ]
    alike += [torch.nn.Parameter(base).exp(), base.expand(2, 4, 6)]
    word = _tensor(base)[place]
    differ = 0
    for tensor in alike:
        differ |= _tensor(tensor)[place] ^ word
    mask = ~differ & ((1 << 40) - 1)
    others = [base.to(dtype) for dtype in (torch.float64, torch.bfloat16, torch.int8, torch.complex64)]
    others += [torch.empty(4, 6, device="meta")]
    if any((_tensor(tensor)[place] ^ word) & mask == 0 for tensor in others):
        raise LookupError("dtype and device")
    return mask


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
        words = _tensor(tensor)[value["sizes"] // 8 :]
        dims = tensor.dim()
        inside = words[1 : 1 + 2 * INLINE] if dims <= INLINE else _words(words[1], 2 * dims)
        room = INLINE if dims <= INLINE else dims
        shape, strides = inside[:dims], inside[room : room + dims]
        base_address = _words(_tensor(tensor)[value["storage"] // 8] + value["data"], 1)[0]
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
    if len({_tensor(kind)[keys] for kind in kinds}) != len(kinds):
        raise LookupError("dispatch keys")
