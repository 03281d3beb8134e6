"""Gradients that name rows, for kernels."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from torch import Tensor

from thalweg.lowering.chunks import Chunks
from thalweg.lowering.look.look import Look
from thalweg.lowering.reference.rows import advance
from thalweg.stepping.batches.batch import State
from thalweg.stepping.batches.kernel import KernelBatch
from thalweg.stepping.member import Member
from thalweg.stepping.rests import Rested
from thalweg.stepping.rows import put_back, reals, row_major, row_numbers
from thalweg.stepping.scaling import Scaling
from thalweg.stepping.settings import AllSettings


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
                rows, h = row_numbers(grad), settings.hypers[member.sort.group]
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
        numbers = [row_numbers(grad) for grad in grads]
        if self.members[0].sort.mean is not None:
            return Chunks.rows(numbers, lengths, max(most, *lengths)).in_rows()
        return Chunks.rows(numbers, lengths, most)

    def _tensors(self, member: Member, state: State) -> list[Tensor]:
        keys = member.sort.stored_keys
        return [member.param, *([state[member.param][key] for key in keys] if keys else [])]
