"""The plan: which tensors are stepped together, and in which chunks.

A step's parameters are divided into batches that one kernel launch can run: same storage, same flags,
across parameter groups. A batch is a table of addresses, a list of chunks, and a row of scalars for each
distinct (group, counters). A plan stays for as long as parameters, gradients and flags stay alike, which
`Plan.read` checks at every step, before anything is changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from thalweg.chunks import Chunks
from thalweg.codecs import BlockCodec, Codec, HalfCodec, codec_of
from thalweg.codecs.draws import keys
from thalweg.layout import home_order, is_plain, like_home, order
from thalweg.lowering import cpu, reference
from thalweg.rows import Rows, advance, scalar_names
from thalweg.rule import Rule
from thalweg.state import counter_dtype
from thalweg.storage import CORRECTION, scale_of
from thalweg.tensors import Memory, Tensors


@dataclass(eq=False, frozen=True)
class Member:
    """A parameter that is stepped.

    Args:
        position: its index among all parameters of the optimizer, group after group.
        param: the parameter.
        group: the index of its group.
        on: the group's flags.
        options: the group, for what is not a matter of the rule (`maximize`, `differentiable` ...).
        state: its state, complete.
        first: whether a slot of its state is new.
        codecs: how `p` and each slot are stored, by name, in the rule's order.
    """

    position: int
    param: Tensor
    group: int
    on: Mapping[str, bool]
    options: Mapping[str, Any]
    state: dict[str, Any]
    first: bool
    codecs: Mapping[str, Codec]

    @property
    def grad(self) -> Tensor:
        """The gradient, as it is now."""
        grad = self.param.grad
        assert grad is not None, "a plan is made for parameters that have one"
        return grad

    def slots(self, rule: Rule) -> dict[str, Tensor]:
        """Return the state's slots by name, in the rule's order."""
        return {slot.name: self.state[slot.name] for slot in rule.slots_on(self.on)}

    def sides(self) -> dict[str, Tensor]:
        """Return the second tensors of what has one: scales and corrections, by the name of the first."""
        return {
            name: self.state[CORRECTION if name == "p" else scale_of(name)]
            for name, codec in self.codecs.items()
            if codec.side is not None
        }

    def stored(self, rule: Rule) -> list[Tensor]:
        """Return the tensors of state that a kernel reads and writes, slots and then sides."""
        return [*self.slots(rule).values(), *self.sides().values()]

    def tensors(self, rule: Rule) -> list[Tensor]:
        """Return all tensors of state."""
        return [*self.stored(rule), *(self.state[counter.name] for counter in rule.counters)]

    @property
    def draws(self) -> bool:
        """Whether anything of it is rounded by random words."""
        return any(codec.drawn for codec in self.codecs.values())


class Plan:
    """The batches of a step.

    Args:
        rule: the update rule.
        members: the parameters that have gradients.
        unscale: whether gradients carry GradScaler's scale.
    """

    def __init__(self, rule: Rule, members: Sequence[Member], unscale: bool) -> None:
        divided: dict[Any, list[Member]] = {}
        kinds = [_kind(rule, member) for member in members]
        for member, kind, layer in zip(members, kinds, _layers(members, kinds), strict=True):
            key = (kind, layer, *_alike(rule, member))
            divided.setdefault(key, []).append(member)
        self.batches = [key[0](rule, batch, unscale) for key, batch in divided.items()]
        self.drawing = sorted({member.group for member in members if member.draws})
        """The indices of the groups in which something is rounded by random words."""

    def read(self, tensors: Tensors) -> bool:
        """Look at this step's tensors; return False if they no longer fit the plan.

        That the gradients are of the kinds that the plan was made for is the caller's business.
        """
        return all(batch.read(tensors) for batch in self.batches)

    def run(self, hypers: Sequence[SimpleNamespace], inverse_scale: float | None) -> None:
        """Step everything that `read` has seen.

        Args:
            hypers: the hyperparameters of each group.
            inverse_scale: what gradients are multiplied by, if the plan was made with `unscale`.
        """
        for batch in self.batches:
            batch.run(hypers, inverse_scale)


def _layers(members: Sequence[Member], kinds: Sequence[type[Batch]]) -> list[int]:
    """Return 0 for each member, and 1, 2 ... for those that share memory with one of a lower layer.

    Threads must not step the same memory at once. Parameters may share it without being the same
    tensor; each is then stepped with its own gradient and state, one after the other, as in torch.
    """
    layers = [0] * len(members)
    ends: list[int] = []
    kernels = [i for i, kind in enumerate(kinds) if kind is not ReferenceBatch]
    for start, i in sorted((members[i].param.data_ptr(), i) for i in kernels):
        param = members[i].param
        size = param.nbytes if param.is_contiguous() else param.element_size()
        free = (layer for layer, end in enumerate(ends) if end <= start)
        layers[i] = next(free, len(ends))
        ends[layers[i] : layers[i] + 1] = [start + size]
    return layers


def _alike(rule: Rule, member: Member) -> tuple[Any, ...]:
    """Return what the members of a batch have in common beside their kind."""
    storage = (member.param.dtype, member.grad.dtype, *member.codecs.values())
    return storage, tuple(member.on.values()), member.options["maximize"]


def _kind(rule: Rule, member: Member) -> type[Batch]:
    param, grad = member.param, member.grad
    tensors = (param, grad, *member.slots(rule).values())
    has_kernel = (
        param.device.type == "cpu"
        and not member.options["differentiable"]
        and all(type(t) in (Tensor, torch.nn.Parameter) for t in tensors)
        and all(cpu.supports(codec) for codec in (codec_of(grad.dtype), *member.codecs.values()))
    )
    if not has_kernel:
        return ReferenceBatch
    if grad.layout == torch.sparse_coo:
        return SparseBatch
    plain = is_plain(param) and is_plain(grad) and not param.is_complex()
    if plain and param.is_contiguous() and grad.is_contiguous():
        return DenseBatch
    return StagedBatch


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

    def run(self, hypers: Sequence[SimpleNamespace], inverse_scale: float | None) -> None:
        """See `Plan.run`."""
        raise NotImplementedError


class Keys:
    """The keys of the random words of a batch.

    Args:
        members: the members of the batch.

    Attributes:
        values: int32 (members,); never another array.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self.values = np.zeros(len(members), np.int32)
        self._groups: list[tuple[Mapping[str, Any], np.ndarray, np.ndarray]] = []
        for index in {member.group for member in members if member.draws}:
            places = [i for i, member in enumerate(members) if member.group == index]
            ordinals = np.array([members[i].position for i in places], np.int64)
            self._groups.append((members[places[0]].options, np.array(places), ordinals))

    def draw(self) -> None:
        """Work out the keys of this step, if any are needed."""
        for group, places, ordinals in self._groups:
            self.values[places] = keys(group["seed"], group["rounding_step"], ordinals)


class KernelBatch(Batch):
    """A batch for the CPU kernel of its rule, flags and storage."""

    def __init__(self, rule: Rule, members: list[Member], unscale: bool) -> None:
        super().__init__(rule, members, unscale)
        one = members[0]
        stored = [member.stored(rule) for member in members]
        self.rows = Rows(
            rule,
            groups=[member.group for member in members],
            first=[member.first for member in members],
            counters={c.name: [m.state[c.name] for m in members] for c in rule.counters},
            dtype=counter_dtype(),
        )
        self.kernel = cpu.kernel(
            cpu.Spec(
                rule=rule,
                on=tuple(one.on.items()),
                scalars=scalar_names(rule, one.options),
                p=one.codecs["p"],
                g=_codec(one.grad),
                slots=tuple(codec for name, codec in one.codecs.items() if name != "p"),
                maximize=one.options["maximize"],
                unscale=unscale,
            )
        )
        # Rows of p, g, each slot and each side; but for the first two they stay, as the state does.
        self.addresses = np.empty((2 + len(stored[0]), len(members)), np.int64)
        self.addresses[2:] = np.array([[t.data_ptr() for t in s] for s in stored], np.int64).T
        self._keys = Keys(members)
        self.memory = Memory([t for member in members for t in member.tensors(rule)])
        self.chunks = Chunks.dense([_reals(param) for param in self.params])
        self._scalars = np.empty((0, 0))
        self._launch: cpu.Launch | None = None

    def launch(self, hypers: Sequence[SimpleNamespace], inverse_scale: float | None) -> None:
        """Run the kernel on the addresses as they are."""
        rows = self.rows.next(hypers, inverse_scale)
        if not self.chunks.elements:
            return
        self._keys.draw()
        if self._launch is None or len(rows) != len(self._scalars):
            self._scalars = np.empty((len(rows), len(rows[0])), self.kernel.dtype)
            self._launch = cpu.Launch(
                self.kernel, self.addresses, self.chunks, self._scalars, self.rows.row_of, self._keys.values
            )
        self._scalars[:] = rows
        self._launch.run()


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

    def run(self, hypers: Sequence[SimpleNamespace], inverse_scale: float | None) -> None:  # noqa: D102
        self.launch(hypers, inverse_scale)
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
        if self.memory.moved() or [home_order(p) for p in self.params] != self._orders:
            return False
        self._staged = [_stage(p, g) for p, g in zip(self.params, grads, strict=True)]
        self.addresses[0] = [p.data_ptr() for p, _ in self._staged]
        self.addresses[1] = [g.data_ptr() for _, g in self._staged]
        return True

    def run(self, hypers: Sequence[SimpleNamespace], inverse_scale: float | None) -> None:  # noqa: D102
        self.launch(hypers, inverse_scale)
        _put_back(self.params, [p for p, _ in self._staged])
        if self._unscale:
            _put_back([member.grad for member in self.members], [g for _, g in self._staged])
        del self._staged


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
        self.chunks = Chunks.rows(
            [_row_numbers(grad) for grad in grads],
            [_reals(v) // max(len(v), 1) for v in values],
        )
        self._launch = None  # it was made for other chunks
        return True

    def run(self, hypers: Sequence[SimpleNamespace], inverse_scale: float | None) -> None:  # noqa: D102
        self.launch(hypers, inverse_scale)
        for stream, staged in zip(self._streams, self._staged, strict=True):
            _put_back(stream, staged)
        del self._staged, self._values


def _row_numbers(grad: Tensor) -> np.ndarray:
    """Return which row each of the values is, counting over all sparse dimensions."""
    number = torch.zeros(grad._nnz(), dtype=torch.int64)
    for size, index in zip(grad.shape, grad.indices(), strict=False):
        number = number * size + index
    return number.numpy()


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

    def run(self, hypers: Sequence[SimpleNamespace], inverse_scale: float | None) -> None:  # noqa: D102
        self._keys.draw()
        for member, key in zip(self.members, self._keys.values.tolist(), strict=True):
            self._step(member, hypers[member.group], inverse_scale, key)
        self._fresh = False

    def _step(self, member: Member, h: Any, inverse_scale: float | None, key: int) -> None:
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
            unscale=inverse_scale,
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
