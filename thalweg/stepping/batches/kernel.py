"""Dense gradients, for kernels: contiguous tensors as they are, and those of any strides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from thalweg.distributed.parts import runs
from thalweg.lowering import passes
from thalweg.lowering.chunks import Chunks
from thalweg.lowering.cpu import kernels as cpu
from thalweg.lowering.gpu import tables as cuda
from thalweg.lowering.look.look import Look
from thalweg.lowering.spec import Spec
from thalweg.stepping.batches.batch import Batch, Making, State
from thalweg.stepping.engines import CpuEngine, engine_for
from thalweg.stepping.member import Member
from thalweg.stepping.rows import put_back, reals
from thalweg.stepping.scaling import Scaling
from thalweg.stepping.settings import AllSettings
from thalweg.storage.codecs import codec_of
from thalweg.storage.layout import is_plain, like_home, order, overlaps_itself


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
