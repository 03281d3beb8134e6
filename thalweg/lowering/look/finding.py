"""How it is found out where libtorch keeps what a tensor is: tensors that are known are looked through."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_REACH = 40  # words of a tensor that are looked through


def words_at(address: int, count: int) -> list[int]:
    """Return words of memory."""
    return list((ctypes.c_int64 * count).from_address(address))


def words_of(tensor: Tensor) -> list[int]:
    """Return the first words of libtorch's tensor."""
    return words_at(tensor._cdata, _REACH)


def function_in(libraries: Sequence[ctypes.CDLL], name: str) -> int:
    """Return the address of a function of one of the libraries.

    Raises:
        LookupError: if none has it.
    """
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


def item_sizes(word: int) -> np.ndarray:
    """Return the bytes of an element by the lowest byte of the word that tells dtypes apart, int64 (256,)."""
    sizes = np.zeros(256, np.int64)
    for dtype in _DTYPES:
        sizes[words_of(torch.empty(0, dtype=dtype))[word] & 255] = dtype.itemsize
    return sizes


def impl_field() -> tuple[int, int]:
    """Return where a Python object has libtorch's tensor, and where the flag is that it is borrowed."""
    ones = [torch.zeros(1), torch.nn.Parameter(torch.zeros(2)), torch.zeros(3)[1:], torch.zeros(2).double()]
    places = [
        i for i in range(2, 6) if all(words_at(id(t), 6)[i] == t._cdata for t in ones)
    ]  # the first two words are Python's
    if not places:
        raise LookupError("libtorch's tensor in Python's")
    place = places[0]
    # Older versions keep a flag in the word before, 0 of a pointer of its own.
    has_flag = place == 3 and all(words_at(id(t), 6)[2] & 255 == 0 for t in ones)
    return 8 * place, 8 * (place - 1) if has_flag else -1


def sizes_field() -> int:
    """Return where libtorch's tensor has its number of dimensions, which sizes and strides follow."""
    tensor = torch.empty(1, 3 * 5 * 7 + 11).view(-1)[11:].view(3, 5, 7).transpose(0, 1)
    expected = [3, 5, 3, 7, 0, 0, 7, 35, 1, 0, 0, 11, 105]
    words = words_of(tensor)
    for place in range(2, _REACH - len(expected) - 2):
        if words[place : place + len(expected)] == expected:
            return 8 * place
    raise LookupError("sizes and strides")


def storage_fields() -> tuple[int, int]:
    """Return where a tensor has its storage, and a storage its memory."""
    tensors = [torch.empty(n) for n in (3, 70, 5)]
    for place in range(2, 6):
        pointers = [words_of(t)[place] for t in tensors]
        if any(pointer <= 4096 or pointer % 8 for pointer in pointers):
            continue
        if all(pointer == t.untyped_storage()._cdata for pointer, t in zip(pointers, tensors, strict=True)):
            found = [i for i in range(2, 6) if _holds_memory(tensors, pointers, i)]
            if found:
                return 8 * place, 8 * found[0]
    raise LookupError("storage")


def _holds_memory(tensors: Sequence[Tensor], storages: Sequence[int], place: int) -> bool:
    return all(words_at(s, 6)[place] == t.data_ptr() for t, s in zip(tensors, storages, strict=True))


def cow_deleter(storage: int, deleter: int) -> int:
    """Return the function that frees memory which is copied when it is written; -1 where there is none."""
    if not hasattr(torch, "_lazy_clone"):
        return -1
    plain = torch.zeros(2)
    lazy = torch._lazy_clone(plain)
    frees = [words_at(words_of(t)[storage // 8] + deleter, 2) for t in (plain, lazy, torch.zeros(2))]
    # Memory's pointers are: to it, to what it is freed by, the function that does so.
    for one, other, usual in zip(*frees, strict=True):
        if one == other != usual:
            return one
    raise LookupError("copies on writing")


def object_field() -> int:
    """Return where libtorch's tensor has Python's."""
    ones = [torch.zeros(1), torch.nn.Parameter(torch.zeros(2)), torch.zeros(3)[1:], torch.zeros(2).double()]
    for place in range(2, _REACH):
        if all(words_of(one)[place] & ~1 == id(one) for one in ones):
            return 8 * place
    raise LookupError("Python's tensor in libtorch's")


def version_field(storage: int) -> int:
    """Return where a tensor has its version counter, which `detach` shares as it does the storage."""
    one = torch.zeros(3)
    words = zip(words_of(one), words_of(one.detach()), words_of(torch.zeros(3)), strict=True)
    shared = (i for i, (a, b, other) in enumerate(words) if a == b != other and 8 * i != storage)
    # Only what is asked for ahead goes by it, and that may be anything.
    return 8 * next(shared, 0)


def meta_mask(place: int) -> int:
    """Return the bits of a word that tell dtypes and devices apart, and are alike where these are."""
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
    word = words_of(base)[place]
    differ = 0
    for tensor in alike:
        differ |= words_of(tensor)[place] ^ word
    mask = ~differ & ((1 << 40) - 1)
    others = [base.to(dtype) for dtype in (torch.float64, torch.bfloat16, torch.int8, torch.complex64)]
    others += [torch.empty(4, 6, device="meta")]
    if any((words_of(tensor)[place] ^ word) & mask == 0 for tensor in others):
        raise LookupError("dtype and device")
    return mask
