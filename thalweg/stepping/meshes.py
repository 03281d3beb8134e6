"""Measures of tensors that processes share: one collective a stage for all that lie on the same processes.

What a stage has measured is a table, a row for each parameter and a column for each measure, in the order of
the parameters, which all processes have in common: batches may be divided otherwise in each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.distributed.parts import groups_of
from thalweg.distributed.sums import over_processes
from thalweg.stepping.batches import Batch


class Meshes:
    """The parameters of some batches that are cut, by the processes over which they are.

    Args:
        batches: of a plan.
    """

    def __init__(self, batches: Sequence[Batch]) -> None:
        members = [(m.position, b, i) for b, batch in enumerate(batches) for i, m in enumerate(batch.members)]
        members.sort()
        self._places = [(b, i) for _, b, i in members]
        rows = [[0] * len(batch.members) for batch in batches]
        for row, (b, i) in enumerate(self._places):
            rows[b][i] = row
        self._rows_of = [torch.tensor(own, dtype=torch.int64, device="cpu") for own in rows]
        """Which rows of the table are of the members of each batch."""
        self._rows: dict[tuple[str, ...], tuple[tuple[Any, ...], torch.device, list[int]]] = {}
        for row, (_, b, i) in enumerate(members):
            member = batches[b].members[i]
            groups = groups_of(member.param) if member.sort.is_shard else ()
            if groups:
                names = tuple(group.group_name for group in groups)
                self._rows.setdefault(names, (groups, member.param.device, []))[2].append(row)
        self._is_any_shard = any(m.sort.is_shard for batch in batches for m in batch.members)

    def __bool__(self) -> bool:
        return self._is_any_shard

    def complete(self, batches: Sequence[Batch], names: Sequence[str]) -> dict[str, float]:
        """Have all members know what was measured of all of a tensor, and not of the part of this process.

        Args:
            batches: the same ones, which have measured.
            names: the measures of a stage.

        Returns:
            The sums over all parameters, by name, which are the same in all processes.
        """
        table = torch.empty(len(self._places), len(names), dtype=torch.float64, device="cpu")
        for batch, own in zip(batches, self._rows_of, strict=True):
            table[own] = batch.measured_by(names)
        for groups, device, rows in self._rows.values():
            table[rows] = over_processes(table[rows], groups, device)
        for batch, own in zip(batches, self._rows_of, strict=True):
            batch.take_measured(names, table[own])
        return dict(zip(names, self._totals(batches, table, names), strict=True))

    def _totals(self, batches: Sequence[Batch], table: Tensor, names: Sequence[str]) -> list[float]:
        asked = [{one.name for one in batch.recipe.measures} for batch in batches]
        totals = []
        for column, name in enumerate(names):
            rows = [row for row, (b, _) in enumerate(self._places) if name in asked[b]]
            totals.append(float(table[rows, column].sum()))
        return totals
