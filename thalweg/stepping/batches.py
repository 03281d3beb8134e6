"""Batches: what is stepped by one launch, by the ways that gradients come.

A batch is a table of addresses, a list of chunks, and an engine that steps them on its device. Of its members
some may have no gradient in a step; they rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from thalweg.distributed.parts import flat_indices, runs
from thalweg.lowering import passes
from thalweg.lowering.chunks import Chunks
from thalweg.lowering.cpu import kernels as cpu
from thalweg.lowering.gpu import tables as cuda
from thalweg.lowering.look.look import Look
from thalweg.lowering.reference import steps as reference
from thalweg.lowering.reference.rows import advance
from thalweg.lowering.spec import Spec
from thalweg.stepping.engines import CpuEngine, Keys, engine_for
from thalweg.stepping.member import Member, packed
from thalweg.stepping.rests import Rested, Rests, put_back, reals, row_major
from thalweg.stepping.scaling import Scaling, as_tensor
from thalweg.stepping.settings import AllSettings
from thalweg.storage.choices import refuse_sparse_means
from thalweg.storage.codecs import BlockCodec, codec_of
from thalweg.storage.layout import has_memory, is_plain, like_home, order, overlaps_itself

State = dict[Any, dict[str, Any]]


class Making(NamedTuple):
    """What batches are made of beside their members.

    Args:
        firsts: int32, whether a parameter's state is new, by its position.
        unscale: whether gradients carry GradScaler's scale.
        rests: what rows have missed.
    """

    firsts: np.ndarray
    unscale: bool
    rests: Rests


class Batch:
    """What is stepped by one launch.

    Args:
        making: what all batches are made of.
        members: alike in recipe, storage and flags.
    """

    def __init__(self, making: Making, members: list[Member]) -> None:
        self.firsts, self.unscale, self.rests = making
        self.recipe = members[0].sort.recipe
        self.members = members

    def connect(self, look: Look) -> None:
        """Have `look` write where tensors lie, which it will have done before each run."""

    def check(self) -> None:
        """Raise if a gradient names parts of rows, where state is kept by row or in blocks that lie in rows.

        All batches are asked before anything of any of them is changed.
        """
        for member in self.members:
            grad, sort = member.grad, member.sort
            if grad is None or grad.layout != torch.sparse_coo:
                continue
            per = None if sort.mean is None else sort.mean.per
            refuse_sparse_means(self.recipe, sort.options, per, grad.sparse_dim())
            if grad.sparse_dim() == 1:
                continue
            if any(isinstance(codec, BlockCodec) for codec in sort.codecs.values()):
                raise ValueError(
                    f"state='int8' began with gradients that index 1 dimension, not {grad.sparse_dim()}: its "
                    "blocks lie in rows"
                )

    def run(self, settings: AllSettings, scaling: Scaling, state: State) -> None:
        """Step what has a gradient.

        Args:
            settings: of the groups.
            scaling: GradScaler's.
            state: the optimizer's.
        """
        raise NotImplementedError

    def measure(self, stage: str, settings: AllSettings, scaling: Scaling, state: State) -> None:
        """Take the measures of a stage, a sum for each member. Nothing is changed.

        Args:
            stage: a stage of the recipe.
            settings: of the groups.
            scaling: GradScaler's.
            state: the optimizer's.
        """
        raise NotImplementedError

    def total(self, name: str) -> Tensor | float:
        """Return the sum of a measure over all members; a tensor where to know it would be to wait."""
        raise NotImplementedError

    def measured_by(self, names: Sequence[str]) -> Tensor:
        """Return what was measured, float64 (members, names) on the host; 0 of what nobody measures here."""
        raise NotImplementedError

    def take_measured(self, names: Sequence[str], values: Tensor) -> None:
        """Have members read `values`, as `measured_by` returns them, for their measures."""
        raise NotImplementedError

    def share(self, name: str, total: Tensor | float) -> None:
        """Have all members read `total` for a measure."""
        raise NotImplementedError

    def sum_of(self, name: str, places: Sequence[int]) -> Tensor:
        """Return the sum of a measure over the members at some places, 0-dim."""
        raise NotImplementedError

    def has_drawing(self) -> set[int]:
        """Return the indices of the groups in which something is rounded by random words in this step."""
        return {m.sort.group for m in self.members if m.sort.draws and m.grad is not None}


class KernelBatch(Batch):
    """A batch for the kernel of its rule, flags and storage.

    Attributes:
        addresses: int64 (streams, members), where the first elements of `p`, `g`, each slot, each side
            tensor and each counter lie; that of a missing gradient is 0.
        chunks: the work.
    """

    def __init__(self, making: Making, members: list[Member]) -> None:
        super().__init__(making, members)
        one = members[0].sort
        codec = codec_of(one.gradient.dtype)
        assert codec is not None, "the plan has sent other dtypes to the reference"
        is_in_parts = one.is_shard and one.draws
        spec = Spec(
            recipe=self.recipe,
            on=tuple(one.on.items()),
            scalars=passes.scalar_names(self.recipe, one.choices),
            p=one.codecs["p"],
            g=codec,
            slots=tuple(codec for name, codec in one.codecs.items() if name != "p"),
            maximize=one.maximizes,
            unscale=self.unscale,
            in_parts=is_in_parts,
        )
        self.addresses = np.zeros((len(spec.streams) + len(self.recipe.counters), len(members)), np.int64)
        engine = engine_for(one.device)
        assert engine is not None, "the plan has sent other devices to the reference"
        self.engine = engine(spec, members, self.addresses, self.firsts)
        lengths = [reals(member.memory) for member in members]
        most = self.engine.chunk(sum(lengths))
        whole = [runs(member.param) for member in members] if is_in_parts else []
        self.chunks = Chunks.of_parts(whole, most) if is_in_parts else self._dense(lengths, most)
        measures = self.recipe.measures
        self.measured = self._dense(lengths, self.engine.measured) if measures else self.chunks

    def _dense(self, lengths: list[int], most: int) -> Chunks:
        mean = self.members[0].sort.mean
        if mean is None:
            return Chunks.dense(lengths, most)
        rows = [reals(m.memory) // max(*mean.shape(m.memory.shape), 1) for m in self.members]
        return Chunks.whole_rows(lengths, rows, most)

    def connect(self, look: Look) -> None:  # noqa: D102
        self._connect_state(look, [m.sort.stored_keys for m in self.members], 2)
        self._connect_counters(look)

    def _connect_counters(self, look: Look) -> None:
        names = [counter.name for counter in self.recipe.counters]
        self._connect_state(look, [names] * len(self.members), len(self.addresses) - len(names))

    def _connect_state(self, look: Look, keys: list[list[str]], begin: int) -> None:
        for i in range(len(keys[0])):
            rows = [look.state_row(m.param, own[i]) for m, own in zip(self.members, keys, strict=True)]
            look.tell(rows, self.addresses[begin + i])

    def run(self, settings: AllSettings, scaling: Scaling, state: State) -> None:  # noqa: D102
        self.engine.launch(self.chunks, settings, scaling)

    def measure(self, stage: str, settings: AllSettings, scaling: Scaling, state: State) -> None:  # noqa: D102
        self.engine.measure(stage, self.measured, settings, scaling)

    def total(self, name: str) -> Tensor | float:  # noqa: D102
        return self.engine.total(name)

    def share(self, name: str, total: Tensor | float) -> None:  # noqa: D102
        self.engine.share(name, total)

    def measured_by(self, names: Sequence[str]) -> Tensor:  # noqa: D102
        found = torch.zeros(len(self.members), len(names), dtype=torch.float64, device="cpu")
        for i, column in self._columns(names):
            found[:, i] = self.engine.measures[:, column].cpu()
        return found

    def take_measured(self, names: Sequence[str], values: Tensor) -> None:  # noqa: D102
        for i, column in self._columns(names):
            self.engine.measures[:, column] = values[:, i].to(self.engine.measures.device)

    def _columns(self, names: Sequence[str]) -> list[tuple[int, int]]:
        own = {one.name for one in self.recipe.measures}
        return [(i, self.recipe.place_of(name)) for i, name in enumerate(names) if name in own]

    def sum_of(self, name: str, places: Sequence[int]) -> Tensor:  # noqa: D102
        measured = self.engine.measures[:, self.recipe.place_of(name)]
        # An index that torch makes of a list is waited for.
        return measured.index_select(0, cuda.to_device(np.array(places, np.int64), measured.device)).sum()


class DenseBatch(KernelBatch):
    """Contiguous parameters with contiguous gradients: the way of nearly all tensors, kept short."""

    def connect(self, look: Look) -> None:  # noqa: D102
        super().connect(look)
        rows = [look.row(member.param) for member in self.members]
        look.tell(rows, self.addresses[0])
        look.tell([row + 1 for row in rows], self.addresses[1])
        self._impls = look.impls(rows)
        if isinstance(self.engine, CpuEngine):
            self.engine.launched.tell(self._impls)

    def run(self, settings: AllSettings, scaling: Scaling, state: State) -> None:  # noqa: D102
        super().run(settings, scaling, state)
        if not isinstance(self.engine, CpuEngine):
            cpu.tell(self._impls, self.addresses[1])

    def has_drawing(self) -> set[int]:  # noqa: D102
        present = self.addresses[1].tolist()
        pairs = zip(self.members, present, strict=True)
        return {m.sort.group for m, grad in pairs if m.sort.draws and grad}


class StagedBatch(KernelBatch):
    """Dense gradients and parameters of any strides.

    Tensors with the same memory order go through as they are, whatever the order. What differs is
    copied into the order of the state, and parameters are copied back.
    """

    def measure(self, stage: str, settings: AllSettings, scaling: Scaling, state: State) -> None:  # noqa: D102
        staged = self._stage_all([member.grad for member in self.members])
        super().measure(stage, settings, scaling, state)
        del staged

    def _stage_all(self, grads: Sequence[Tensor | None]) -> list[tuple[Tensor, Tensor] | None]:
        """Have the kernel read parameters and gradients in one order, which are copies where it has to be."""
        pairs = zip(self.members, grads, strict=True)
        staged = [None if grad is None else _stage(member.memory, grad) for member, grad in pairs]
        self.addresses[0] = [0 if one is None else one[0].data_ptr() for one in staged]
        # Of an empty tensor no memory is read; it is there all the same.
        self.addresses[1] = [0 if one is None else one[1].data_ptr() or 1 for one in staged]
        return staged

    def run(self, settings: AllSettings, scaling: Scaling, state: State) -> None:  # noqa: D102
        # Not earlier: another batch may step the same memory first.
        grads = [member.grad for member in self.members]
        staged = self._stage_all(grads)
        super().run(settings, scaling, state)
        taken = [(m, grad, one) for m, grad, one in zip(self.members, grads, staged, strict=True) if one]
        put_back([m.memory for m, _, _ in taken], [p for _, _, (p, _) in taken])
        increment_version([m.param for m, _, _ in taken if m.sort.is_shard])
        if self.unscale:
            self._put_back_gradients(taken)

    def _put_back_gradients(
        self, taken: Sequence[tuple[Member, Tensor | None, tuple[Tensor, Tensor]]]
    ) -> None:
        for member, grad, (_, stepped) in taken:
            if grad is not None and overlaps_itself(grad):
                member.exchange_gradient(stepped)  # nothing can be written to one place for many
            elif grad is not None:
                put_back([grad], [stepped])


def _stage(param: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    own = order(param) if is_plain(param) else None
    p = param if own is not None else like_home(param, param.dtype).copy_(param)
    alike = is_plain(grad) and order(grad) == order(p)
    return p, grad if alike else like_home(p, grad.dtype).copy_(grad)


class SparseBatch(KernelBatch):
    """Row-sparse (COO) gradients: each row that the gradient names is a chunk, and no other moves.

    Where the recipe says so, these rows first make up for the steps that they were not named in.
    """

    def connect(self, look: Look) -> None:  # noqa: D102
        self._connect_counters(look)

    def measure(self, stage: str, settings: AllSettings, scaling: Scaling, state: State) -> None:  # noqa: D102
        grads = [None if m.grad is None else m.grad.coalesce() for m in self.members]
        self._catch_up(grads, settings, state)
        streams = [self._tensors(member, state) for member in self.members]
        staged = self._stage_rows(grads, streams)
        self.engine.measure(stage, self._rows_of(grads, staged[0], self.engine.measured), settings, scaling)
        del staged

    def run(self, settings: AllSettings, scaling: Scaling, state: State) -> None:  # noqa: D102
        grads = [None if m.grad is None else m.grad.coalesce() for m in self.members]
        if self.unscale:
            for member, grad in zip(self.members, grads, strict=True):
                member.param.grad = grad  # so that what is unscaled is the gradient, not a copy
        caught = self._catch_up(grads, settings, state)
        passed = [self._passed(place, settings, state) for place in caught]
        streams = [self._tensors(member, state) for member in self.members]
        values, staged = self._stage_rows(grads, streams)
        lengths = sum(0 if v is None else reals(v) for v in values)
        self.chunks = self._rows_of(grads, values, self.engine.chunk(lengths))
        super().run(settings, scaling, state)
        for grad, tensors, own in zip(grads, streams, staged, strict=True):
            if grad is not None:
                put_back(tensors, own)
        for (rested, rows), noted in zip(caught.values(), passed, strict=True):
            rested.took(rows, *noted)

    def _catch_up(
        self, grads: Sequence[Tensor | None], settings: AllSettings, state: State
    ) -> dict[int, tuple[Rested, np.ndarray]]:
        """Have the rows that gradients name take the steps that they have missed, if they are to.

        Returns:
            What rows have missed, and those that are named, by the place of the member; empty, if they rest.
        """
        caught = {}
        for place, (member, grad) in enumerate(zip(self.members, grads, strict=True)):
            if not self.recipe.catches_up:
                self.rests.flush(member.param, state)
            elif grad is not None:
                rows, h = _row_numbers(grad), settings.hypers[member.sort.group]
                rested = self.rests.of(member, grad.sparse_dim(), h, True, state)
                rested.catch_up(rows, state)
                caught[place] = rested, rows
        return caught

    def _passed(self, place: int, settings: AllSettings, state: State) -> tuple[Any, Any, Any]:
        """Return the scalars, hyperparameters and counters of the coming step of a member."""
        member = self.members[place]
        own, h = state.get(member.param, {}), settings.hypers[member.sort.group]
        counters = {c.name: own[c.name].numpy()[()] for c in self.recipe.counters}
        measured = {
            one.name: float(self.engine.measures[place, i]) for i, one in enumerate(self.recipe.measures)
        }
        first = bool(self.firsts[member.position])
        scalars, after = advance(self.recipe, h, counters, first, SimpleNamespace(**measured))
        return scalars, h, after

    def _stage_rows(
        self, grads: Sequence[Tensor | None], streams: Sequence[Sequence[Tensor]]
    ) -> tuple[list[Tensor | None], list[list[Tensor]]]:
        """Have the kernel read the values of gradients, and parameters and state, row after row."""
        values = [None if grad is None else row_major(grad.values()) for grad in grads]
        staged = [list(map(row_major, tensors)) for tensors in streams]
        count = len(streams[0])
        table = np.array([[t.data_ptr() for t in tensors] for tensors in staged], np.int64).T
        self.addresses[[0, *range(2, count + 1)]] = table
        self.addresses[1] = [0 if v is None else v.data_ptr() or 1 for v in values]
        return values, staged

    def _rows_of(self, grads: Sequence[Tensor | None], values: Sequence[Tensor | None], most: int) -> Chunks:
        lengths = [0 if v is None else reals(v) // max(len(v), 1) for v in values]
        numbers = [_row_numbers(grad) for grad in grads]
        if self.members[0].sort.mean is not None:
            return Chunks.rows(numbers, lengths, max(most, *lengths)).in_rows()
        return Chunks.rows(numbers, lengths, most)

    def _tensors(self, member: Member, state: State) -> list[Tensor]:
        keys = member.sort.stored_keys
        return [member.param, *([state[member.param][key] for key in keys] if keys else [])]


def _row_numbers(grad: Tensor | None) -> np.ndarray:
    """Return which row each of the values is, counting over all sparse dimensions."""
    if grad is None:
        return np.empty(0, np.int64)
    if grad.sparse_dim() == 1:
        return grad.indices()[0].cpu().numpy()
    number = torch.zeros(grad._nnz(), dtype=torch.int64, device=grad.device)
    for size, index in zip(grad.shape, grad.indices(), strict=False):
        number = number * size + index
    return number.cpu().numpy()


class ReferenceBatch(Batch):
    """What has no kernel, tensor by tensor: other devices, tensor subclasses, differentiable steps."""

    def __init__(self, making: Making, members: list[Member]) -> None:
        super().__init__(making, members)
        self._values = np.zeros(len(members), np.int32)
        self._keys = Keys(members, self._values)
        unknown = dict.fromkeys((one.name for one in self.recipe.measures), 0.0)
        self._place = {member.position: i for i, member in enumerate(members)}
        self._measures = [SimpleNamespace(**unknown) for _ in members]
        self._indices: dict[int, Tensor] = {}

    def measure(self, stage: str, settings: AllSettings, scaling: Scaling, state: State) -> None:  # noqa: D102
        for member, m in zip(self.members, self._measures, strict=True):
            grad = member.grad
            taken = [one.name for one in self.recipe.measures if one.at == stage]
            vars(m).update(dict.fromkeys(taken, 0.0))
            if grad is not None:
                own = member.own(state[member.param]) if member.sort.has_state else {}
                self._catch_up(member, grad, settings.hypers[member.sort.group], own)
                vars(m).update(self._measured(stage, member, grad, own, settings, scaling))

    def total(self, name: str) -> Tensor | float:  # noqa: D102
        return sum((getattr(m, name) for m in self._measures), 0.0)

    def share(self, name: str, total: Tensor | float) -> None:  # noqa: D102
        for m in self._measures:
            setattr(m, name, total)

    def measured_by(self, names: Sequence[str]) -> Tensor:  # noqa: D102
        found = [[float(getattr(m, name, 0.0)) for name in names] for m in self._measures]
        return torch.tensor(found, dtype=torch.float64, device="cpu")

    def take_measured(self, names: Sequence[str], values: Tensor) -> None:  # noqa: D102
        own = {one.name for one in self.recipe.measures}
        for m, row in zip(self._measures, values.tolist(), strict=True):
            vars(m).update((name, value) for name, value in zip(names, row, strict=True) if name in own)

    def sum_of(self, name: str, places: Sequence[int]) -> Tensor:  # noqa: D102
        whole: Any = sum((getattr(self._measures[i], name) for i in places), 0.0)
        return as_tensor(whole).detach()

    def _measured(
        self,
        stage: str,
        member: Member,
        grad: Tensor,
        own: dict[str, Any],
        settings: AllSettings,
        scaling: Scaling,
    ) -> dict[str, Any]:
        with torch.set_grad_enabled(member.sort.is_differentiable):
            scalars, _ = self._scalars(member, own, settings.hypers[member.sort.group])
            return reference.measure(self._work(member, grad, own, scalars, scaling), stage)

    def _work(
        self,
        member: Member,
        grad: Tensor,
        own: dict[str, Any],
        scalars: Mapping[str, Any],
        scaling: Scaling,
        key: int = 0,
    ) -> reference.Work:
        sort, slots = member.sort, {name: own[at] for name, at in member.sort.slot_keys.items()}
        return reference.Work(
            *(self.recipe, sort.on, member.memory, grad, slots, scalars),
            maximize=sort.maximizes,
            unscale=scaling.inverse,
            differentiable=sort.is_differentiable,
            packed=packed(member.sort, member.memory, own),
            key=key,
            index=self._index(member),
            mean=sort.mean,
        )

    def _index(self, member: Member) -> Tensor | None:
        """Return where the elements of a part lie in the whole, which random words go by."""
        if not (member.sort.is_shard and member.sort.draws):
            return None
        if member.position not in self._indices:
            self._indices[member.position] = flat_indices(member.param).to(torch.int32)
        return self._indices[member.position]

    def run(self, settings: AllSettings, scaling: Scaling, state: State) -> None:  # noqa: D102
        self._keys.draw()
        for member, key in zip(self.members, self._values.tolist(), strict=True):
            grad = member.grad
            if grad is not None:
                own = member.own(state[member.param]) if member.sort.has_state else {}
                self._step(member, grad, own, settings.hypers[member.sort.group], scaling, key)
                self.firsts[member.position] = 0
        increment_version([m.param for m in self.members if m.sort.is_shard and m.grad is not None])

    def _step(
        self, member: Member, grad: Tensor, own: dict[str, Any], h: Any, scaling: Scaling, key: int
    ) -> None:
        is_differentiable = member.sort.is_differentiable
        scalars, after = self._scalars(member, own, h)
        caught = self._catch_up(member, grad, h, own)
        reference.step(self._work(member, grad, own, scalars, scaling, key))
        if caught is not None:
            rested, rows = caught
            rested.took(rows, scalars, h, after)
        with torch.set_grad_enabled(is_differentiable):
            for name, value in after.items():
                own[name].copy_(as_tensor(value))

    def _catch_up(
        self, member: Member, grad: Tensor, h: Any, own: dict[str, Any]
    ) -> tuple[Rested, np.ndarray] | None:
        """Have the rows that a sparse gradient names take the steps that they have missed, if they are to."""
        state = {member.param: own}
        if not (self.recipe.catches_up and grad.layout == torch.sparse_coo):
            self.rests.flush(member.param, state)
            return None
        rows = _row_numbers(grad.coalesce())
        rested = self.rests.of(member, grad.sparse_dim(), h, False, state)
        rested.catch_up(rows, state)
        return rested, rows

    def _scalars(self, member: Member, own: dict[str, Any], h: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the scalars of the coming step and the counters after it."""
        tensors = {c.name: own[c.name] for c in self.recipe.counters}
        on_device = any(t.device.type != "cpu" or not has_memory(t) for t in tensors.values())
        is_differentiable = member.sort.is_differentiable
        if on_device or is_differentiable:
            h = self.recipe.tensors(member.sort.options)
        values = {name: _read(t, on_device, is_differentiable) for name, t in tensors.items()}
        m = self._measures[self._place[member.position]]
        return advance(self.recipe, h, values, bool(self.firsts[member.position]), m)


def _read(counter: Tensor, on_device: bool, is_differentiable: bool) -> Any:
    if is_differentiable and counter.requires_grad:
        return counter.clone()  # what a graph has saved must not be written over
    return counter if on_device else counter.detach().numpy()[()]
