"""How many bytes training takes: weights, gradients and optimizer state, counted on real tensors.

What a parameter takes depends on its kind: shape, memory order, dtype, and whether it is trained. Of each
kind that a model has, one parameter is made on the CPU, given a gradient and stepped; what then lies in
`optimizer.state` is counted, and taken as often as the kind occurs. So a model on the meta device will do, no
more memory is needed than for its largest parameter, and the model is only looked at.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from thalweg.lab.memory.parts import Kind, Parts
from thalweg.optimizer.holding import most_held
from thalweg.storage import choices as storage
from thalweg.storage.codecs.plain import dtype_name


@dataclass(frozen=True)
class Setting:
    """An optimizer as it is to be built.

    Attributes:
        title: what it is called.
        make: the class.
        arguments: what it is given beside the parameters.
        storage: how its state is stored; None for an optimizer that cannot be asked.
    """

    title: str
    make: Callable[..., torch.optim.Optimizer]
    arguments: Mapping[str, Any]
    storage: str | None = None


@dataclass(frozen=True)
class Row:
    """Bytes of training a model with one optimizer and one storage.

    Attributes:
        optimizer: what it is called.
        storage: how its state is stored; None for an optimizer that has no `state=`.
        parameters: how many numbers the model has as parameters, frozen ones included.
        weights: bytes of these parameters.
        buffers: bytes of the model's buffers.
        gradients: bytes of the gradients of the parameters that are trained, or the most of them that steps
            in backward hold; of sparse ones, which depend on the batch, as if all rows were there.
        corrections: bytes of what `weight_bits` keeps beside the weights, in `optimizer.state`.
        slots: bytes of the state proper: numbers, or codes.
        scales: bytes of the scales of these codes.
        counters: bytes of the counters of steps.
    """

    optimizer: str
    storage: str | None
    parameters: int
    weights: int
    buffers: int
    gradients: int
    corrections: int
    slots: int
    scales: int
    counters: int

    @property
    def state(self) -> int:
        """Bytes of optimizer state; corrections belong to the weights and are not among them."""
        return self.slots + self.scales + self.counters

    @property
    def total(self) -> int:
        """Bytes of all that is counted."""
        return self.weights + self.buffers + self.corrections + self.gradients + self.state

    @property
    def bytes_per_parameter(self) -> float:
        """All bytes, for each number that the model has as a parameter; 0 of none."""
        return self.total / self.parameters if self.parameters else 0.0


def count(parts: Parts, settings: Sequence[Setting], in_backward: bool = False) -> list[Row]:
    """Count the bytes of training for each of the optimizers.

    Args:
        parts: of the model.
        settings: the optimizers.
        in_backward: whether those that can step in backward do.

    Raises:
        ValueError: if one of them cannot step one of the parameters.
    """
    gradients = largest = 0
    states: list[Counter[str]] = [Counter() for _ in settings]
    for kind, copies in parts.kinds.items():
        if not kind.trained:
            continue
        with _apart():
            # Optimizers share it: what a step leaves in it has the same size.
            param = _made(kind)
            gradients += copies * kind.bytes
            largest = max(largest, kind.bytes)
            for total, setting in zip(states, settings, strict=True):
                for part, size in _state(setting, kind, param).items():
                    total[part] += copies * size
    held = most_held(gradients, largest) if in_backward else gradients
    return [
        _row(parts, setting, gradients if setting.storage is None else held, total)
        for setting, total in zip(settings, states, strict=True)
    ]


def _row(parts: Parts, setting: Setting, gradients: int, state: Counter[str]) -> Row:
    return Row(
        setting.title,
        setting.storage,
        parts.parameters,
        parts.weights,
        parts.buffers,
        gradients,
        **{part: state[part] for part in ("corrections", "slots", "scales", "counters")},
    )


@contextmanager
def _apart() -> Iterator[None]:
    """Whatever mode the caller is in, tensors are ordinary ones, and warnings of steps are not theirs."""
    with warnings.catch_warnings(), torch.inference_mode(False), torch.enable_grad(), torch.device("cpu"):
        warnings.simplefilter("ignore")
        yield


def _made(kind: Kind) -> nn.Parameter:
    param = nn.Parameter(torch.empty_strided(kind.shape, kind.strides, dtype=kind.dtype).zero_())
    param.grad = torch.ones_like(param)
    if kind.sparse:
        param.grad = param.grad[:1].to_sparse(1).sparse_resize_(kind.shape, 1, param.dim() - 1)
    return param


def _state(setting: Setting, kind: Kind, param: Tensor) -> Counter[str]:
    """Take one step, and return the bytes of each part of the state."""
    arguments = setting.arguments
    if not kind.plain:
        arguments = {name: value for name, value in arguments.items() if name not in storage.CHOICES}
    try:
        optimizer = setting.make([param], **arguments)
        optimizer.step()
    except Exception as error:  # an optimizer of somebody else's may raise anything
        name = dtype_name(kind.dtype)
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{setting.title} cannot step a parameter of shape {kind.shape} and {name}: {reason}"
        ) from error
    rule = getattr(optimizer, "rule", None)
    counters = {counter.name for counter in rule.counters} if rule is not None else set()
    found: Counter[str] = Counter()
    for state in optimizer.state.values():
        for name, value in state.items():
            size = sum(_bytes(leaf) for leaf in tree_leaves(value) if isinstance(leaf, Tensor))
            found[_part(name, value, state, param, counters)] += size
    return found


def _part(name: str, value: Any, state: Mapping[str, Any], param: Tensor, counters: set[str]) -> str:
    if name == storage.CORRECTION:
        return "corrections"
    if any(name == storage.scale_of(storage.slot_of(other)) for other in state):
        return "scales"
    lone = isinstance(value, Tensor) and value.dim() == 0 and param.dim() > 0
    return "counters" if lone or name in counters else "slots"


def _bytes(tensor: Tensor) -> int:
    return tensor.nelement() * tensor.element_size()
