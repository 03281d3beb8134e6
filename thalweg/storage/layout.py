"""Where the elements of a tensor lie, and which tensors can be walked side by side."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thalweg.distributed.parts import is_dtensor, is_partial, part_of


def order(tensor: Tensor) -> tuple[int, ...] | None:
    """Return the memory order of a tensor whose elements fill one block of memory, else None.

    Two tensors of one shape with the same order have the same element at each place of their blocks.
    The order is the strides, with 0 for dimensions of size 1, whose strides mean nothing.
    """
    expected = 1
    for size, stride in sorted(zip(tensor.shape, tensor.stride(), strict=True), key=lambda x: x[1]):
        if size == 1:
            continue
        if stride != expected:
            return () if tensor.numel() == 0 else None
        expected *= size
    if tensor.numel() == 0:
        return ()
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return tuple(0 if size == 1 else stride for size, stride in sizes)


def has_memory(tensor: Tensor) -> bool:
    """Say whether a tensor is certain to be memory, and not a wrapper around other tensors."""
    plain = type(tensor) in (Tensor, torch.nn.Parameter)
    return plain and not tensor.is_nested and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def has_version(tensor: Tensor) -> bool:
    """Say whether autograd counts what is written to a tensor.

    It does not where the tensor was made in inference mode, whatever memory it has been given since.
    """
    try:
        return tensor._version >= 0
    except RuntimeError:
        return False


def has_shard(tensor: Tensor) -> bool:
    """Say whether processes share a tensor, and what this one holds of it is memory."""
    return is_dtensor(tensor) and has_memory(part_of(tensor)) and not is_partial(tensor)


def span(tensor: Tensor) -> int:
    """Return how many elements lie from a tensor's first in memory to its last, both counted."""
    if tensor.numel() == 0:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def has_rows(tensor: Tensor) -> bool:
    """Say whether a tensor fills its memory, and each index of its first dimension a stretch of that."""
    return (
        tensor.dim() > 0
        and bool(order(tensor))
        and (len(tensor) == 1 or tensor.stride(0) * len(tensor) == tensor.numel())
    )


def is_plain(tensor: Tensor) -> bool:
    """Say whether what is in memory is what the tensor means: strided, without lazy signs."""
    return tensor.layout == torch.strided and not tensor.is_conj() and not tensor.is_neg()


def overlaps_itself(tensor: Tensor) -> bool:
    """Say whether elements share memory in the way that `expand` makes: by a stride of 0."""
    if tensor.is_nested:
        return False  # it has no shape to ask for
    return any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def home_order(param: Tensor) -> tuple[int, ...] | None:
    """Return the order of the state of `param`: its own if it is dense, else row-major."""
    own = order(param) if is_plain(param) else None
    return own if own is not None else order(torch.empty(param.shape, device="meta"))


def like_home(param: Tensor, dtype: torch.dtype, fill: float | None = None, **where: Any) -> Tensor:
    """Return a new tensor with the shape of `param` and its `home_order`, filled if `fill` is given.

    Args:
        param: the parameter.
        dtype: of the new tensor.
        fill: what it is filled with.
        where: `device` and `pin_memory`, as in torch; the device of `param`, if none is given.
    """
    dense = is_plain(param) and order(param) is not None
    memory_format = torch.preserve_format if dense else torch.contiguous_format
    new = torch.empty_like(param, dtype=dtype, memory_format=memory_format, requires_grad=False, **where)
    if fill is None:
        return new
    return new.fill_(complex(fill, fill) if new.is_complex() else fill)
