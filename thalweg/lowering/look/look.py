"""What an optimizer's groups, gradients and state are, noted in one compiled walk and compared in another.

A step is planned once and taken many times, so each has to know that nothing is other than it was planned
for: the same groups of the same parameters, memory of the same shape, strides, dtype and device in the same
places. Asked from Python that costs microseconds for each tensor. The walk (`walk.py`) also writes where each
of them lies into the tables that kernels read. It holds no tensor: what a user replaces is free.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from thalweg.distributed.parts import is_dtensor, part_of
from thalweg.lowering.look import ahead, fields
from thalweg.lowering.look.tables import ENTRY, GROUP, HEAD, ITEM, MOST_DIMS, STATE, WORDS, Row, Seen
from thalweg.lowering.look.walk import walk
from thalweg.storage.layout import has_memory, has_shard, has_version

__all__ = ["Look", "Row", "Seen", "is_watched"]

_FEW = 8
"""Rows that are faster written one by one than by numpy."""


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


Groups = list[dict[str, Any]]


def is_watched(tensor: Tensor) -> bool:
    """Say whether a tensor is memory that a look knows how to look at."""
    if is_dtensor(tensor):
        known = fields.known()
        whole = has_shard(tensor) and known is not None and known.know_dtensors(tensor)
        return whole and is_watched(part_of(tensor))
    return has_memory(tensor) and tensor.dim() <= MOST_DIMS and has_version(tensor)


class Look:
    """Groups, gradients and state as they are now, and a way to find out at once whether they still are.

    Args:
        groups: `param_groups`; each a dict with a list of parameters.
        state: the optimizer's.
        watched: the ids of the parameters that are memory, and are looked at with their state. Others are
            somebody else's business, but for being listed.

    Attributes:
        complete: whether all that is watched could be noted; else nothing else here means anything.
        rows: int64 (tensors, WORDS). A parameter's is followed by its gradient's.
    """

    def __init__(self, groups: Groups, state: dict[Any, Any], watched: Sequence[int]) -> None:
        self._row_of = {one: 2 * i for i, one in enumerate(watched)}
        owns = [(key, own) for key, own in state.items() if self._is_own(key, own)]
        count = 2 * len(watched) + sum(len(own) for _, own in owns)
        # What follows the last row is read too, for what is asked for ahead.
        self.rows = np.zeros((count + ahead.ROWS, WORDS), np.int64)[:count]
        self._start, self._row_bytes = _address(self.rows), self.rows.itemsize * WORDS
        self._note_groups(groups)
        self._note_states(state, owns)
        self._head = np.zeros(len(HEAD), np.int64)
        known = fields.known()
        assert known is not None, "the caller has asked"
        self._fields = known  # whose table is pointed to
        head = {
            "groups": _address(self._groups),
            "group_count": len(groups),
            "listed": _address(self._listed),
            "entries": _address(self._entries),
            "states": _address(self._states),
            "state_count": len(state),
            "items": _address(self._items),
            "next_row": self._start + 2 * len(watched) * self._row_bytes,
            "fields": known.table,
            "functions": walk().functions,
        }
        self._head[: len(head)] = list(head.values())
        self._argument = _address(self._head)
        self._compare = walk().look
        # Likewise kept for the sake of its address: what says how shared tensors are cut.
        self._placings = _placings(groups, owns)
        noted = not self._compare(self._argument, groups, state, 1) & Seen.OTHER
        self.complete = noted and self._is_in_order(groups, state, owns) and self._knows_placings()
        if self.complete:
            self._find_state_rows(owns)

    def _is_own(self, key: Any, own: Any) -> bool:
        return isinstance(own, dict) and id(key) in self._row_of

    def _note_groups(self, groups: Groups) -> None:
        # What an address is compared with is kept: another object could come to lie there.
        self._kept = [dict(group) for group in groups]
        counts = np.array([[len(group), len(group["params"])] for group in groups], np.int64).reshape(-1, 2)
        self._groups = np.zeros((len(groups), GROUP), np.int64)
        self._groups[:, 1], self._groups[:, 4] = counts.T
        self._groups[:, 2], self._groups[:, 5] = (np.cumsum(counts, axis=0) - counts).T
        self._groups[:, 3] = [id(group["params"]) for group in groups]
        self._entries = np.zeros((int(counts[:, 0].sum()), ENTRY), np.int64)
        ids = [id(param) for group in groups for param in group["params"]]
        self._listed = np.array([ids, self._first_places(ids)], np.int64).T.copy()

    def _first_places(self, ids: Sequence[int]) -> list[int]:
        """Return for what is listed the address of its row; 0 if it has none, or is listed again."""
        left = dict(self._row_of)
        places = [left.pop(one, None) for one in ids]
        return [0 if place is None else self._start + place * self._row_bytes for place in places]

    def _note_states(self, state: Mapping[Any, Any], owns: Sequence[tuple[Any, dict]]) -> None:
        self._keys = [tuple(own) for _, own in owns]
        self._states = np.zeros((len(state), STATE), np.int64)
        places = [i for i, (key, own) in enumerate(state.items()) if self._is_own(key, own)]
        counts = np.array([len(own) for own in self._keys], np.int64)
        self._states[places, 1] = [id(type(own)) for _, own in owns]
        self._states[places, 2] = counts
        self._states[places, 3] = np.cumsum(counts) - counts
        self._items = np.zeros((int(counts.sum()), ITEM), np.int64)

    def _is_in_order(
        self, groups: Groups, state: Mapping[Any, Any], owns: Sequence[tuple[Any, dict]]
    ) -> bool:
        """Say whether what was noted is what Python sees, in the same order, and no two share their state.

        The walk goes through a dict as it was filled. Classes derived from it may have another order, and
        then a tensor would be taken for another's.
        """
        entries = [id(key) for group in groups for key in group]
        items = [id(key) for keys in self._keys for key in keys]
        seen = (self._entries[:, 0], self._states[:, 0], self._items[:, 0])
        alike = [
            one.tolist() == ids for one, ids in zip(seen, (entries, list(map(id, state)), items), strict=True)
        ]
        return all(alike) and len({id(own) for _, own in owns}) == len(owns)

    def _find_state_rows(self, owns: Sequence[tuple[Any, dict]]) -> None:
        rows = np.where(self._items[:, 1], (self._items[:, 1] - self._start) // self._row_bytes, -1).tolist()
        self._state_rows: dict[int, dict[Any, int]] = {}
        begin = 0
        for (key, _), names in zip(owns, self._keys, strict=True):
            self._state_rows[id(key)] = dict(zip(names, rows[begin : begin + len(names)], strict=True))
            begin += len(names)

    def _knows_placings(self) -> bool:
        return set(self.rows[:, Row.PLACING].tolist()) <= {0, *self._placings}

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
        begin, step = _address(cells), cells.strides[0]
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


def _placings(groups: Groups, owns: Sequence[tuple[Any, dict]]) -> dict[int, Any]:
    """Return the objects that say how tensors are cut, by their ids."""
    params = [param for group in groups for param in group["params"] if is_dtensor(param)]
    tensors = [
        *params,
        *(param.grad for param in params),
        *(value for _, own in owns for value in own.values()),
    ]
    return {id(tensor._spec): tensor._spec for tensor in tensors if is_dtensor(tensor)} if params else {}
