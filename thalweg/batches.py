"""Batches: what is stepped by one launch, by the ways that gradients come.

A batch is a table of addresses, a list of chunks, and an engine that steps them on its device.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from thalweg.chunks import Chunks
from thalweg.codecs import BlockCodec, Codec, HalfCodec, codec_of
from thalweg.engines import Keys, engine_for
from thalweg.layout import home_order, is_plain, like_home, order
from thalweg.lowering import reference
from thalweg.lowering.spec import Spec
from thalweg.member import Member
from thalweg.rows import advance, scalar_names
from thalweg.rule import Rule
from thalweg.scaling import Scaling
from thalweg.tensors import Memory, Tensors


class Batch:
    """What is stepped by one launch.

    Args:
        rule: the update rule.
        members: alike in storage and flags.
        unscale: whether gradients carry GradScaler's scale.
    """

    def __init__(self, rule: Rule, members: list[Member], unscale: bool) -> None:
        self.rule = rule
        self.members = members
        self.params = [member.param for member in members]

    def read(self, tensors: Tensors) -> bool:
        """See `Plan.read`."""
        raise NotImplementedError

    def run(self, hypers: Sequence[SimpleNamespace], scaling: Scaling) -> None:
        """See `Plan.run`."""
        raise NotImplementedError


class KernelBatch(Batch):
    """A batch for the kernel of its rule, flags and storage.

    Attributes:
        addresses: int64 (streams, members), where the first elements of `p`, `g`, each slot and each side
            tensor lie.
        chunks: the work.
    """

    def __init__(self, rule: Rule, members: list[Member], unscale: bool) -> None:
        super().__init__(rule, members, unscale)
        one = members[0]
        spec = Spec(
            rule=rule,
            on=tuple(one.on.items()),
            scalars=scalar_names(rule, one.options),
            p=one.codecs["p"],
            g=_codec(one.grad),
            slots=tuple(codec for name, codec in one.codecs.items() if name != "p"),
            maximize=one.options["maximize"],
            unscale=unscale,
        )
        stored = [member.stored(rule) for member in members]
        # But for those of p and g they stay, as the state does.
        self.addresses = np.empty((2 + len(stored[0]), len(members)), np.int64)
        self.addresses[2:] = np.array([[t.data_ptr() for t in s] for s in stored], np.int64).T
        self.memory = Memory([t for member in members for t in member.tensors(rule)])
        engine = engine_for(one.param.device)
        assert engine is not None, "the plan has sent other devices to the reference"
        self.engine = engine(spec, members)
        lengths = [_reals(param) for param in self.params]
        self.chunks = Chunks.dense(lengths, engine.chunk(sum(lengths)))

    def launch(self, hypers: Sequence[SimpleNamespace], scaling: Scaling) -> None:
        """Run the kernel on the addresses as they are."""
        self.engine.launch(self.addresses, self.chunks, hypers, scaling)


class DenseBatch(KernelBatch):
    """Contiguous parameters with contiguous gradients: the way of nearly all tensors, kept short."""

    def __init__(self, rule: Rule, members: list[Member], unscale: bool) -> None:
        super().__init__(rule, members, unscale)
        self.addresses[0] = [param.data_ptr() for param in self.params]
        positions = [member.position for member in members]
        self._generation = -1
        self._positions: slice | np.ndarray = np.array(positions)

    def read(self, tensors: Tensors) -> bool:  # noqa: D102
        self._tensors = tensors
        if self.memory.moved():
            return False
        if tensors.generation != self._generation:
            if len(self.members) == len(tensors.params):
                self._positions = slice(None)
            if (tensors.addresses[self._positions] != self.addresses[0]).any():
                return False
            self._generation = tensors.generation
        self.addresses[1] = tensors.grad_addresses[self._positions]
        return True

    def run(self, hypers: Sequence[SimpleNamespace], scaling: Scaling) -> None:  # noqa: D102
        self.launch(hypers, scaling)
        self._tensors.bump(self._positions)


class StagedBatch(KernelBatch):
    """Dense gradients and parameters of any strides.

    Tensors with the same memory order go through as they are, whatever the order. What differs is
    copied into the order of the state, and parameters are copied back.
    """

    def __init__(self, rule: Rule, members: list[Member], unscale: bool) -> None:
        super().__init__(rule, members, unscale)
        self._grad_dtype = members[0].grad.dtype
        self._orders = [home_order(param) for param in self.params]
        self._unscale = unscale

    def read(self, tensors: Tensors) -> bool:  # noqa: D102
        grads = [member.grad for member in self.members]
        if any(g.dtype != self._grad_dtype or g.layout != torch.strided for g in grads):
            return False
        return not self.memory.moved() and [home_order(p) for p in self.params] == self._orders

    def run(self, hypers: Sequence[SimpleNamespace], scaling: Scaling) -> None:  # noqa: D102
        # Not earlier: another batch may step the same memory first.
        grads = [member.grad for member in self.members]
        staged = [_stage(p, g) for p, g in zip(self.params, grads, strict=True)]
        self.addresses[0] = [p.data_ptr() for p, _ in staged]
        self.addresses[1] = [g.data_ptr() for _, g in staged]
        self.launch(hypers, scaling)
        _put_back(self.params, [p for p, _ in staged])
        if self._unscale:
            _put_back(grads, [g for _, g in staged])


def _stage(param: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    own = order(param) if is_plain(param) else None
    p = param if own is not None else like_home(param, param.dtype).copy_(param)
    alike = is_plain(grad) and order(grad) == order(p)
    return p, grad if alike else like_home(p, grad.dtype).copy_(grad)


def _put_back(tensors: Sequence[Tensor], stepped: Sequence[Tensor]) -> None:
    for tensor, copy in zip(tensors, stepped, strict=True):
        if copy is not tensor:
            tensor.copy_(copy)
    increment_version(tensors)


class SparseBatch(KernelBatch):
    """Row-sparse (COO) gradients: each row that the gradient names is a chunk, and no other moves."""

    def __init__(self, rule: Rule, members: list[Member], unscale: bool) -> None:
        super().__init__(rule, members, unscale)
        self._grad_dtype = members[0].grad.dtype
        self._unscale = unscale
        stored = [member.stored(rule) for member in members]
        self._streams = [self.params, *map(list, zip(*stored, strict=True))]

    def read(self, tensors: Tensors) -> bool:  # noqa: D102
        grads = [member.grad for member in self.members]
        if any(g.dtype != self._grad_dtype or g.layout != torch.sparse_coo for g in grads):
            return False
        if self.memory.moved():
            return False
        grads = [grad.coalesce() for grad in grads]
        if self._unscale:
            for param, grad in zip(self.params, grads, strict=True):
                param.grad = grad  # so that what is unscaled is the gradient, not a copy
        values = [grad.values().contiguous() for grad in grads]
        self._staged = [[t.contiguous() for t in stream] for stream in self._streams]
        self._values = values  # kept until they have been stepped
        p, *stored = ([t.data_ptr() for t in stream] for stream in self._staged)
        self.addresses[:] = [p, [v.data_ptr() for v in values], *stored]
        lengths = [_reals(v) for v in values]
        self.chunks = Chunks.rows(
            [_row_numbers(grad) for grad in grads],
            [length // max(len(v), 1) for length, v in zip(lengths, values, strict=True)],
            self.engine.chunk(sum(lengths)),
        )
        return True

    def run(self, hypers: Sequence[SimpleNamespace], scaling: Scaling) -> None:  # noqa: D102
        self.launch(hypers, scaling)
        for stream, staged in zip(self._streams, self._staged, strict=True):
            _put_back(stream, staged)
        del self._staged, self._values


def _row_numbers(grad: Tensor) -> np.ndarray:
    """Return which row each of the values is, counting over all sparse dimensions."""
    number = torch.zeros(grad._nnz(), dtype=torch.int64, device=grad.device)
    for size, index in zip(grad.shape, grad.indices(), strict=False):
        number = number * size + index
    return number.cpu().numpy()


def _reals(tensor: Tensor) -> int:
    return tensor.numel() * (2 if tensor.is_complex() else 1)


def _codec(tensor: Tensor) -> Codec:
    codec = codec_of(tensor.dtype)
    assert codec is not None, "_kind has sent other dtypes to the reference"
    return codec


class ReferenceBatch(Batch):
    """What has no kernel, tensor by tensor: other devices, tensor subclasses, differentiable steps."""

    def __init__(self, rule: Rule, members: list[Member], unscale: bool) -> None:
        super().__init__(rule, members, unscale)
        self._fresh = True
        self._keys = Keys(members)

    def read(self, tensors: Tensors) -> bool:  # noqa: D102
        return True

    def run(self, hypers: Sequence[SimpleNamespace], scaling: Scaling) -> None:  # noqa: D102
        self._keys.draw()
        for member, key in zip(self.members, self._keys.values.tolist(), strict=True):
            self._step(member, hypers[member.group], scaling, key)
        self._fresh = False

    def _step(self, member: Member, h: Any, scaling: Scaling, key: int) -> None:
        tensors = {c.name: member.state[c.name] for c in self.rule.counters}
        on_device = any(t.device.type != "cpu" for t in tensors.values())
        if on_device or member.options["differentiable"]:
            h = SimpleNamespace(**{name: _to_0_dim(v) for name, v in member.options.items()})
        values = tensors if on_device else {name: t.numpy()[()] for name, t in tensors.items()}
        scalars, after = advance(self.rule, h, values, member.first and self._fresh)
        reference.step(
            self.rule,
            member.on,
            member.param,
            member.grad,
            member.slots(self.rule),
            scalars,
            maximize=member.options["maximize"],
            unscale=scaling.inverse,
            differentiable=member.options["differentiable"],
            packed=_packed(self.rule, member),
            key=key,
        )
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(torch.as_tensor(after[name]))


def _packed(rule: Rule, member: Member) -> dict[str, reference.Packed]:
    tensors, sides = {"p": member.param, **member.slots(rule)}, member.sides()
    return {
        name: reference.Packed(codec, tensors[name], sides.get(name))
        for name, codec in member.codecs.items()
        if isinstance(codec, (BlockCodec, HalfCodec))
    }


def _to_0_dim(value: Any) -> Any:
    return value.reshape(()) if isinstance(value, Tensor) else value
