"""What has no kernel, tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from thalweg.distributed.parts import flat_indices
from thalweg.lowering.reference import steps as reference
from thalweg.lowering.reference.rows import advance
from thalweg.stepping.batches.batch import Batch, Making, State
from thalweg.stepping.engines import Keys
from thalweg.stepping.member import Member, packed
from thalweg.stepping.rests import Rested
from thalweg.stepping.rows import row_numbers
from thalweg.stepping.scaling import Scaling, as_tensor
from thalweg.stepping.settings import AllSettings
from thalweg.storage.layout import has_memory


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
        rows = row_numbers(grad.coalesce())
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
