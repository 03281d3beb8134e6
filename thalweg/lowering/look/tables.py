"""The tables of the compiled walk: what it notes of groups, gradients and state, and in which words.

groups   dict, number of its entries, the first of them, its list of parameters, their number, the first
listed   parameter, its row
entries  key, value
states   key, of a parameter's dict of state its type, the number of items, the first of them
items    key, row
rows     one for each tensor: what it is, and where (`Row`)
"""

from __future__ import annotations

from enum import IntEnum


class Seen:
    """The bits of what a look finds changed; nothing, if zero."""

    OTHER = 1  # anything that needs another plan
    VALUES = 2  # an entry of a group is another object
    MOVED = 4  # the same kind of memory, elsewhere


class Row(IntEnum):
    """The words of a row."""

    TYPE = 0
    DIMS = 1  # -1 of a gradient that there was not when it was noted
    NUMEL = 2
    META = 3  # dtype and device
    KEYS = 4  # libtorch's dispatch keys: layout, conjugation, inference mode, wrappers
    DATA = 5  # address of the first element; of a gradient 0 if there is none, and 1 if it is empty
    IMPL = 6  # libtorch's tensor
    CELL = 7  # where DATA is written too, if not 0
    PART = 8  # libtorch's tensor of the part of this process, if processes share the tensor, and else 0
    PLACING = 9  # how it is cut; all other words but TYPE, IMPL and those below are then the part's
    # Where it lay the last time, for what is asked for ahead.
    OBJECT = 10  # Python's tensor
    STORAGE = 11
    VERSION = 12  # libtorch's counter
    GRAD = 13  # of a parameter: where libtorch has the pointer to its gradient
    SHAPE = 14  # size and stride by turns: of one dimension, the end of the second line of cache
    PART_OBJECT = 30
    PART_VERSION = 31


WORDS = 32
MOST_DIMS = 8
"""Words of a row, and dimensions that it has room for."""

HEAD = (
    "groups",
    "group_count",
    "listed",
    "entries",
    "states",
    "state_count",
    "items",
    "next_row",
    "fields",
    "functions",
    "absent",
)
"""The table that the walk is called with: where the others are, and how many gradients it missed."""

GROUP, LISTED, ENTRY, STATE, ITEM = 6, 2, 2, 4, 2
"""The words of a row of each table."""
