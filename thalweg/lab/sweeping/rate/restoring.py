"""A model and its optimizer as they were, bit for bit, whatever was done with them in between."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from thalweg.lab.running import endings
from thalweg.lab.workload import chance


@contextmanager
def restored(model: nn.Module, optimizer: Optimizer) -> Iterator[None]:
    """Puts model and optimizer back in the end, by whatever way the block is left.

    Back come, bit for bit and as the same objects: weights, buffers, gradients, the mode of every module and
    its other attributes; the optimizer's state, its groups, and all that is noted on it. A scheduler reads
    the groups and is not touched itself. Within the block gradients are None at first.

    Raises:
        ValueError: the model has layers that wait for their first batch; nothing was changed.
    """
    if any(map(is_lazy, [*model.parameters(), *model.buffers()])):
        raise ValueError("model has layers that learn their size from the first batch; call it on one before")
    kept = _Kept()
    kept.keep(vars(optimizer))
    for module in model.modules():
        kept.keep(vars(module))
    kept.begin()
    try:
        yield
    finally:
        # A second Ctrl-C must not leave half of it.
        with endings.held_back():
            kept.restore()


@contextmanager
def generators_left_alone(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Puts the global generators of torch, on every device of these tensors, of NumPy and Python back."""
    devices = {tensor.device for tensor in tensors if tensor.device.type == "cuda"}
    with ExitStack() as stack:
        for device in devices or {torch.device("cpu")}:
            stack.enter_context(chance.left_alone(device))
        yield


class _Kept:
    """What is to come back: tensors with their numbers, dicts and lists with what they hold.

    Modules, functions and all that is neither of these is taken to be left alone by training.
    """

    def __init__(self) -> None:
        self._seen: dict[int, Any] = {}
        self._tensors: list[tuple[Tensor, Tensor, Tensor, Tensor | None]] = []
        self._dicts: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
        self._lists: list[tuple[list[Any], list[Any]]] = []

    def keep(self, value: Any) -> None:
        """Notes a value and all that it holds."""
        if id(value) in self._seen or isinstance(value, nn.Module):
            return
        if isinstance(value, Tensor):
            self._seen[id(value)] = value
            # `data` is the same memory, which comes back where training has put other memory there.
            self._tensors.append(
                (value, value.data, _once(value.data).clone(), value.grad if value.is_leaf else None)
            )
        elif isinstance(value, dict):
            self._seen[id(value)] = value
            self._dicts.append((value, dict(value)))
            for part in value.values():
                self.keep(part)
        elif isinstance(value, list):
            self._seen[id(value)] = value
            self._lists.append((value, list(value)))
            for part in value:
                self.keep(part)
        elif isinstance(value, tuple):
            for part in value:
                self.keep(part)
        elif isinstance(value, Optimizer):  # one that another holds, as SAM's base
            self.keep(vars(value))

    def begin(self) -> None:
        """Takes gradients off, so that those there are stay as they are."""
        for tensor, _, _, grad in self._tensors:
            if grad is not None:
                tensor.grad = None
        for held, _ in self._dicts:
            # Our own optimizers count there what they skip; without it they begin anew.
            if "_stepper" in held:
                held["_stepper"] = None

    def restore(self) -> None:
        """Puts all back."""
        with torch.no_grad():
            for tensor, memory, numbers, grad in self._tensors:
                _once(memory).copy_(numbers)
                if tensor.data_ptr() != memory.data_ptr():
                    tensor.data = memory
                if tensor.is_leaf:
                    tensor.grad = grad
        for held, before in self._dicts:
            held.clear()
            held.update(before)
        for listed, items in self._lists:
            listed[:] = items


def _once(tensor: Tensor) -> Tensor:
    """The tensor without the repetitions of one that was expanded."""
    if tensor.layout != torch.strided:
        return tensor
    for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        tensor = tensor.narrow(dim, 0, 1) if size > 1 and stride == 0 else tensor
    return tensor
