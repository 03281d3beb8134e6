"""Groups, gradients and state as they are noted: the tables that the compiled walk fills and compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from thalweg.distributed.parts import is_dtensor
from thalweg.lowering.look import ahead, fields
from thalweg.lowering.look.tables import ENTRY, GROUP, HEAD, ITEM, STATE, WORDS, Row, Seen
from thalweg.lowering.look.walk import walk

Groups = list[dict[str, Any]]


def address_of(array: np.ndarray) -> int:
    """Return where the elements of an array begin."""
    return array.__array_interface__["data"][0]


class Noted:
    """Groups, gradients and state as they are now.

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
        self._start, self._row_bytes = address_of(self.rows), self.rows.itemsize * WORDS
        self._note_groups(groups)
        self._note_states(state, owns)
        self._head = np.zeros(len(HEAD), np.int64)
        known = fields.known()
        assert known is not None, "the caller has asked"
        self._fields = known  # whose table is pointed to
        head = {
            "groups": address_of(self._groups),
            "group_count": len(groups),
            "listed": address_of(self._listed),
            "entries": address_of(self._entries),
            "states": address_of(self._states),
            "state_count": len(state),
            "items": address_of(self._items),
            "next_row": self._start + 2 * len(watched) * self._row_bytes,
            "fields": known.table,
            "functions": walk().functions,
        }
        self._head[: len(head)] = list(head.values())
        self._argument = address_of(self._head)
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


def _placings(groups: Groups, owns: Sequence[tuple[Any, dict]]) -> dict[int, Any]:
    """Return the objects that say how tensors are cut, by their ids."""
    params = [param for group in groups for param in group["params"] if is_dtensor(param)]
    tensors = [
        *params,
        *(param.grad for param in params),
        *(value for _, own in owns for value in own.values()),
    ]
    return {id(tensor._spec): tensor._spec for tensor in tensors if is_dtensor(tensor)} if params else {}
