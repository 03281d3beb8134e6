"""The part of a `DTensor` that lies in this process, and where its elements are in the whole.

A part is plain memory, and an element of it is stepped like any other. What must not depend on how a tensor
is cut (random words, blocks) goes by the index of an element in the whole.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor


def kind() -> type | None:
    """Return torch's class of tensors that processes share; None as long as nobody has imported it."""
    module = sys.modules.get("torch.distributed.tensor")
    return getattr(module, "DTensor", None)


def is_dtensor(tensor: Any) -> TypeGuard[Any]:
    """Say whether processes share a tensor, each holding a part."""
    found = kind()
    return found is not None and type(tensor) is found


def part_of(tensor: Any) -> Tensor:
    """Return the part of a tensor that lies in this process; the tensor itself, if it is not shared."""
    return tensor._local_tensor if is_dtensor(tensor) else tensor


def is_cut_alike(one: Any, other: Any) -> bool:
    """Say whether two shared tensors lie on the same mesh, placed in the same way."""
    mine, theirs = one._spec, other._spec
    return mine is theirs or (mine.mesh == theirs.mesh and mine.placements == theirs.placements)


def dtensor_like(like: Any, part: Tensor, shape: Sequence[int] | None = None) -> Tensor:
    """Return a shared tensor, placed as another one is, around the part of this process.

    Args:
        like: a shared tensor.
        part: what this process holds.
        shape: of the whole, row-major; shape and strides of `like`, if None.
    """
    spec = copy.copy(like._spec)
    strides = like.stride() if shape is None else torch.empty(tuple(shape), device="meta").stride()
    whole = like.shape if shape is None else torch.Size(shape)
    spec.tensor_meta = spec.tensor_meta._replace(shape=whole, stride=tuple(strides), dtype=part.dtype)
    return type(like)(part, spec, requires_grad=False)


def brought(tensor: Any, like: Any) -> Tensor:
    """Return a shared tensor placed as another one is; processes exchange what they must.

    Raises:
        ValueError: if the two lie on different meshes.
    """
    if not is_cut_alike(tensor, like):
        if tensor.device_mesh != like.device_mesh:
            raise ValueError(f"it lies on the mesh {tensor.device_mesh}, not on {like.device_mesh}")
        tensor = tensor.redistribute(like.device_mesh, like.placements)
    part = tensor._local_tensor
    # What is still on its way is a wrapper, which says when it is there.
    return tensor if type(part) is Tensor or not hasattr(part, "wait") else dtensor_like(tensor, part.wait())


def cut(whole: Tensor, like: Any) -> Tensor:
    """Return the part that this process would hold of a plain tensor, were it placed as another one is."""
    part = whole
    for dim, index in enumerate(indices(like, whole.shape)):
        if len(index) != whole.shape[dim]:
            part = part.index_select(dim, index.to(part.device))
    return part


def indices(tensor: Any, shape: Sequence[int] | None = None) -> list[Tensor]:
    """Return for each dimension which indices of the whole this process holds, int64, in the part's order.

    Torch's placements say themselves how they cut; they are asked with the indices in the place of a tensor.

    Args:
        tensor: a shared one.
        shape: of another whole that is placed in the same way; its own, if None.
    """
    found = [torch.arange(size, device="cpu") for size in (tensor.shape if shape is None else shape)]
    mesh = tensor.device_mesh
    coordinate = mesh.get_coordinate()
    if coordinate is None:
        return [index[:0] for index in found]
    for placement, count, place in zip(tensor.placements, mesh.shape, coordinate, strict=True):
        if not placement.is_replicate():
            standing = found[placement.dim].view(*[1] * placement.dim, -1)
            pieces, _ = placement._split_tensor(standing, count, with_padding=False, contiguous=True)
            found[placement.dim] = pieces[place].reshape(-1)
    return found


def flat_indices(tensor: Any) -> Tensor:
    """Return where each element of the part lies in the memory of the whole, int64, in the part's shape."""
    whole = torch.zeros((), dtype=torch.int64, device="cpu")
    for index, stride in zip(indices(tensor), tensor.stride(), strict=True):
        whole = whole.unsqueeze(-1) + index * stride
    return whole


def runs(tensor: Any) -> np.ndarray:
    """Return the runs of neighbours in the whole that a part consists of, where both are row-major.

    Returns:
        int64 (runs, 3): where each begins in the part, where in the whole, and its length, in elements.
    """
    found, shape = [index.numpy() for index in indices(tensor)], tensor.shape
    if not found or not all(map(len, found)):
        return np.array([[0, 0, 1]] if not found else np.empty((0, 3)), np.int64)
    last = max((d for d, index in enumerate(found) if len(index) != shape[d]), default=0)
    strides = [math.prod(shape[d + 1 :]) for d in range(len(shape))]
    outer = np.zeros(1, np.int64)
    for index, stride in zip(found[:last], strides, strict=False):
        outer = (outer[:, None] + index * stride).reshape(-1)
    index = found[last]
    begins = np.flatnonzero(np.diff(index, prepend=index[0] - 2) != 1)
    lengths = np.diff(begins, append=len(index)) * strides[last]
    whole = (outer[:, None] + index[begins] * strides[last]).reshape(-1)
    length = np.tile(lengths, len(outer))
    return np.stack([np.cumsum(length) - length, whole, length], axis=1)


def blocks_shape(tensor: Any, size: int) -> tuple[int, ...] | None:
    """Return the shape of a DTensor with one element for each block of neighbours of another one.

    It is placed as the other is, so that each part has the blocks of its elements. Rows, the slices along
    the first dimension, must be made of whole blocks, so that a mesh of any size may cut between them. What
    is cut along a later dimension must be so between blocks.

    Args:
        tensor: the other one.
        size: elements of a block.

    Returns:
        The shape; None, if blocks would be cut, or are no neighbours in memory.
    """
    shape = tensor.shape
    if len(shape) < 2 or not tensor.is_contiguous() or math.prod(shape[1:]) % size:
        return None
    last = max(d for d in range(1, len(shape)) if math.prod(shape[d:]) % size == 0)
    blocks = math.prod(shape[last:]) // size
    cuts = [
        (p.dim, n)
        for p, n in zip(tensor.placements, tensor.device_mesh.shape, strict=True)
        if not p.is_replicate()
    ]
    inner = math.prod(shape[last + 1 :])
    at_last = [count for dim, count in cuts if dim == last]
    is_whole = len(at_last) <= 1 and all(
        -(-shape[last] // n) * inner == -(-blocks // n) * size for n in at_last
    )
    if any(dim > last for dim, _ in cuts) or not is_whole or (at_last and _is_strided(tensor, last)):
        return None
    return (*shape[:last], blocks)


def _is_strided(tensor: Any, dim: int) -> bool:
    """Say whether a dimension is cut other than into as many runs as there are processes."""
    return any(hasattr(p, "split_factor") for p in tensor.placements if not p.is_replicate() and p.dim == dim)


def groups_of(tensor: Any) -> tuple[Any, ...]:
    """Return the process groups over which a shared tensor is cut, and not repeated."""
    mesh = tensor.device_mesh
    over = [d for d, p in enumerate(tensor.placements) if not p.is_replicate() and mesh.size(d) > 1]
    return tuple(mesh.get_group(d) for d in over)


def is_partial(tensor: Any) -> bool:
    """Say whether processes hold summands of a shared tensor, and not parts."""
    return any(placement.is_partial() for placement in tensor.placements)
