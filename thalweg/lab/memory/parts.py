"""What of a model takes memory: its parameters by kind, and its buffers.

The model is only looked at, so one on the meta device will do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from thalweg.storage.layout import has_memory


@dataclass(frozen=True)
class Kind:
    """What the bytes of a parameter depend on.

    Attributes:
        shape: its shape.
        strides: its strides.
        dtype: its dtype.
        trained: whether it has a gradient and state.
        plain: whether it is no tensor subclass, whose storage stays as it is.
        sparse: whether its gradient has rows for what a batch names only; its storage stays as it is too.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    trained: bool
    plain: bool
    sparse: bool

    @property
    def elements(self) -> int:
        """How many numbers such a parameter has."""
        return torch.Size(self.shape).numel()

    @property
    def bytes(self) -> int:
        """What these take."""
        return self.elements * self.dtype.itemsize


@dataclass(frozen=True)
class Parts:
    """A model as far as its bytes are concerned.

    Attributes:
        kinds: how many parameters of each kind it has.
        buffers: bytes of its buffers, such as running means.
    """

    kinds: Mapping[Kind, int]
    buffers: int

    @property
    def parameters(self) -> int:
        """How many numbers the parameters have, frozen ones included."""
        return sum(count * kind.elements for kind, count in self.kinds.items())

    @property
    def trained(self) -> int:
        """How many of them are trained."""
        return sum(count * kind.elements for kind, count in self.kinds.items() if kind.trained)

    @property
    def weights(self) -> int:
        """Bytes of the parameters."""
        return sum(count * kind.bytes for kind, count in self.kinds.items())


def read(model: nn.Module | Iterable[Tensor], dtype: torch.dtype | None = None) -> Parts:
    """Look at a model's parameters and buffers, of which what is shared counts once.

    Args:
        model: a module, or parameters.
        dtype: to count floating-point parameters and buffers as if they had been cast to it.

    Raises:
        TypeError: if `model` is neither.
        ValueError: if a parameter has no shape yet, as in torch's lazy modules.
    """
    parameters: list[Tensor]
    buffers: list[Tensor] = []
    if isinstance(model, nn.Module):
        parameters, buffers = list(model.parameters()), list(model.buffers())
    elif isinstance(model, Iterable) and not isinstance(model, Tensor | str | Mapping):
        parameters = list(model)
    else:
        raise TypeError(f"model must be a torch.nn.Module or parameters, not {type(model).__name__}")
    for tensor in (*parameters, *buffers):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"model must hold parameters, which are tensors, not {type(tensor).__name__}")
        if is_lazy(tensor):
            raise ValueError("model has lazy parameters, which have no shape yet; run it on one batch first")
    distinct = {id(tensor): tensor for tensor in parameters}.values()
    sparse = _with_sparse_gradients(model) if isinstance(model, nn.Module) else set()
    kinds = Counter(_kind(tensor, dtype, id(tensor) in sparse) for tensor in distinct)
    return Parts(kinds, sum(tensor.nelement() * _cast(tensor, dtype).itemsize for tensor in buffers))


def _with_sparse_gradients(model: nn.Module) -> set[int]:
    embeddings = (m for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag))
    return {id(module.weight) for module in embeddings if module.sparse}


def _kind(param: Tensor, dtype: torch.dtype | None, sparse: bool) -> Kind:
    plain = has_memory(param)
    return Kind(tuple(param.shape), param.stride(), _cast(param, dtype), param.requires_grad, plain, sparse)


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    return dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
