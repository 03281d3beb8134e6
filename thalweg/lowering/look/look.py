"""What an optimizer's groups, gradients and state are, noted in one compiled walk and compared in another.

A step is planned once and taken many times, so each has to know that nothing is other than it was planned
for: the same groups of the same parameters, memory of the same shape, strides, dtype and device in the same
places. Asked from Python that costs microseconds for each tensor. The walk (`walk.py`) also writes where each
of them lies into the tables that kernels read. It holds no tensor: what a user replaces is free.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from thalweg.distributed.parts import is_dtensor, part_of
from thalweg.lowering.look import fields
from thalweg.lowering.look.noted import Groups, Noted, address_of
from thalweg.lowering.look.tables import HEAD, MOST_DIMS, Row, Seen
from thalweg.lowering.look.walk import walk
from thalweg.storage.layout import has_memory, has_shard, has_version

__all__ = ["Look", "Row", "Seen", "is_watched"]

_FEW = 8
"""Rows that are faster written one by one than by numpy."""


def is_watched(tensor: Tensor) -> bool:
    """Say whether a tensor is memory that a look knows how to look at."""
    if is_dtensor(tensor):
        known = fields.known()
        whole = has_shard(tensor) and known is not None and known.know_dtensors(tensor)
        return whole and is_watched(part_of(tensor))
    return has_memory(tensor) and tensor.dim() <= MOST_DIMS and has_version(tensor)


class Look(Noted):
    """What is noted, and a way to find out at once whether it still is so; see `Noted`."""

    def follow(self, params: Sequence[Tensor]) -> None:
        """Expect of shared gradients from now on the object that says how they are cut, if it says the same.

        Args:
            params: shared ones that are watched.
        """
        for param in params:
            row = self.rows[self._row_of[id(param)] + 1]
            then = self._placings.get(int(row[Row.PLACING]))
            grad: Any = param.grad
            if then is not None and is_dtensor(grad) and grad._spec is not then and grad._spec == then:
                self._placings[id(grad._spec)] = grad._spec
                row[Row.PLACING] = id(grad._spec)
        kept = set(self.rows[:, Row.PLACING].tolist())
        self._placings = {one: placing for one, placing in self._placings.items() if one in kept}

    def again(self, groups: Groups, state: dict[Any, Any]) -> int:
        """Return the bits of `Seen` that are other than they were, and tell cells where tensors lie now."""
        return self._compare(self._argument, groups, state, 0)

    def take_over(self, groups: Groups, state: dict[Any, Any], params: Sequence[Tensor]) -> int:
        """Watch groups and state of as many of everything, and look at them as `again` does.

        Args:
            groups: the groups.
            state: the state, in the order of the parameters, each with what another had in its place.
            params: the parameters, in the order of the rows.
        """
        ids = [id(param) for param in params]
        owns = list(state.values())
        rows = list(self._state_rows.values())
        self._keys = [tuple(own) for own in owns]
        same = [list(known) for known in rows] == [list(keys) for keys in self._keys]
        sizes = [[len(group), len(group["params"])] for group in groups]
        same = same and sizes == self._groups[:, [1, 4]].tolist()
        if not same or len(self._listed) != len(ids) or len(self._states) != len(owns):
            return Seen.OTHER
        self._row_of = {one: 2 * i for i, one in enumerate(ids)}
        self._state_rows = dict(zip(map(id, state), rows, strict=True))
        self._listed[:, 0] = ids
        self._groups[:, 0] = [id(group) for group in groups]
        self._groups[:, 3] = [id(group["params"]) for group in groups]
        self._entries[:, 0] = [id(key) for group in groups for key in group]
        self._states[:, 0] = [id(param) for param in state]
        self._items[:, 0] = [id(key) for own in owns for key in own]
        self.note_values(groups)
        return self.again(groups, state)

    def release(self) -> None:
        """Give up what is kept for the sake of its address; nothing may be looked at but by `take_over`."""
        self._kept, self._keys, self._placings = [], [], {}

    def note_values(self, groups: Groups) -> None:
        """Compare with the values that groups have now, under the same keys, from now on."""
        self._kept = [dict(group) for group in groups]
        self._entries[:, 1] = [id(value) for group in groups for value in group.values()]

    @property
    def walk(self) -> tuple[int, int]:
        """The addresses of the compiled walk and of its table, for a call that looks before it does more."""
        return walk().address, self._argument

    @property
    def absent(self) -> int:
        """How many of the watched parameters had no gradient."""
        return int(self._head[HEAD.index("absent")])

    def row(self, param: Tensor) -> int:
        """Return the row of a watched parameter; that of its gradient is the next."""
        return self._row_of[id(param)]

    def state_row(self, param: Tensor, name: str) -> int:
        """Return the row of a tensor of state.

        Raises:
            KeyError: if there is none.
        """
        return self._state_rows[id(param)][name]

    def expect(self, other: Look, alike: Container[int]) -> None:
        """Of gradients that are missing, expect what another look has seen of them.

        Args:
            other: the other look.
            alike: the ids of the parameters whose gradients are to be what they were then.
        """
        for one, row in self._row_of.items():
            before = other._row_of.get(one)
            if self.rows[row + 1, Row.DIMS] >= 0 or before is None or one not in alike:
                continue
            shape = [Row.DIMS, Row.NUMEL, *range(Row.SHAPE, Row.PART_OBJECT, 2)]
            if (self.rows[row, shape] == other.rows[before, shape]).all():
                strides = range(Row.SHAPE + 1, Row.PART_OBJECT, 2)
                kept = [*shape, Row.META, Row.KEYS, Row.PART, Row.PLACING, *strides]
                self.rows[row + 1, kept] = other.rows[before + 1, kept]
        self._placings |= other._placings

    def tell(self, rows: Sequence[int], cells: np.ndarray) -> None:
        """Have every look write where tensors lie.

        Args:
            rows: theirs.
            cells: int64 (tensors,), the places to write to; a column or row of a table that stays.
        """
        begin, step = address_of(cells), cells.strides[0]
        if len(rows) > _FEW:
            self.rows[rows, Row.CELL] = begin + step * np.arange(len(rows))
            cells[:] = self.rows[rows, Row.DATA]
            return
        for i, row in enumerate(rows):
            self.rows[row, Row.CELL] = begin + step * i
            cells[i] = self.rows[row, Row.DATA]

    def impls(self, rows: Sequence[int]) -> np.ndarray:
        """Return where the rows keep libtorch's tensors, int64 (tensors,)."""
        return self._start + np.array(rows, np.int64) * self._row_bytes + 8 * Row.IMPL
