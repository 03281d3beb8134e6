"""Chunks: the one shape of work that every kernel takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from thalweg.storage.codecs.draws import RUN

SIZE = 16_384
"""Elements of a chunk of a dense tensor: small enough to share out evenly among threads, large enough
that a chunk's own cost (tens of nanoseconds) is nothing beside its elements."""

FEW = 16
"""Tensors of whose lengths the chunks are remembered: small models come often, and one after the other."""

COST = 64
"""What a chunk costs beside its elements, in elements."""


@dataclass(frozen=True)
class Chunks:
    """Pieces of tensors, and tasks that are runs of them.

    Args:
        table: int64 (chunks, 4): tensor, offset, offset in the gradient, length; in elements. None is
            empty. Of parts of tensors int64 (chunks, 6): also where in the whole the run of 64 begins that
            the first element belongs to, and how many of that run come before it. Of what goes row by row
            int64 (chunks, 5): whole rows, and the length of one.
        tasks: int64 (tasks + 1,): the first chunk of each task, then the number of chunks. Tasks are
            what threads claim; each is worth about as many elements as a chunk may have.
        elements: the sum of the lengths.
    """

    table: np.ndarray
    tasks: np.ndarray
    elements: int

    @classmethod
    def dense(cls, lengths: Sequence[int], most: int = SIZE) -> Chunks:
        """Return the chunks of whole tensors.

        Args:
            lengths: of the tensors, in elements.
            most: elements of a chunk, a multiple of 64.
        """
        if len(lengths) <= FEW:
            return _dense_of_few(tuple(lengths), most)
        return cls._dense(lengths, most)

    @classmethod
    def _dense(cls, lengths: Sequence[int], most: int) -> Chunks:
        whole = np.asarray(lengths, np.int64)
        counts = -(-whole // most)
        tensor = np.repeat(np.arange(len(whole)), counts)
        before = np.repeat(np.cumsum(counts) - counts, counts)
        offset = (np.arange(len(tensor)) - before) * most
        length = np.minimum(whole[tensor] - offset, most)
        return cls._of(np.stack([tensor, offset, offset, length], axis=1), most)

    @classmethod
    def whole_rows(cls, lengths: Sequence[int], rows: Sequence[int], most: int = SIZE) -> Chunks:
        """Return the chunks of whole tensors that are gone through row by row.

        Args:
            lengths: of the tensors, in elements.
            rows: the lengths of their rows.
            most: elements of a chunk; a longer row is a chunk too.
        """
        parts = [np.empty((0, 5), np.int64)]
        for tensor, (length, row) in enumerate(zip(lengths, rows, strict=True)):
            step = max(most // max(row, 1), 1) * row
            begin = np.arange(0, length, max(step, 1))
            columns = (begin * 0 + tensor, begin, begin, np.minimum(length - begin, step), begin * 0 + row)
            parts.append(np.stack(columns, axis=1))
        return cls._of(np.concatenate(parts), most)

    def in_rows(self) -> Chunks:
        """Return these, each of which is a whole row, for what goes row by row."""
        return Chunks(np.ascontiguousarray(self.table[:, [0, 1, 2, 3, 3]]), self.tasks, self.elements)

    @classmethod
    def rows(cls, numbers: Sequence[np.ndarray], lengths: Sequence[int], most: int = SIZE) -> Chunks:
        """Return the chunks of the rows that sparse gradients name, one or more for each.

        Args:
            numbers: for each tensor, the numbers of its rows in the order of the gradient's values.
            lengths: for each tensor, the length of a row, in elements.
            most: elements of a chunk, a multiple of 64.
        """
        parts = [
            _pieces(np.full(len(rows), tensor), rows, np.arange(len(rows)), length, most)
            for tensor, (rows, length) in enumerate(zip(numbers, lengths, strict=True))
        ]
        table = parts[0] if len(parts) == 1 else np.concatenate([np.empty((0, 4), np.int64), *parts])
        return cls._of(table, most)

    @classmethod
    def rows_of_one(cls, tensors: np.ndarray, rows: np.ndarray, length: int, most: int = SIZE) -> Chunks:
        """Return the chunks of rows of one tensor that stands in the table of addresses several times.

        Args:
            tensors: for each row, the column of the table whose scalars are its.
            rows: their numbers.
            length: of a row, in elements.
            most: elements of a chunk, a multiple of 64.
        """
        return cls._of(_pieces(tensors, rows, rows, length, most), most)

    @classmethod
    def of_parts(cls, runs: Sequence[np.ndarray], most: int = SIZE) -> Chunks:
        """Return the chunks of parts of tensors; a run of 64 that begins outside of a part is one of its own.

        Args:
            runs: for each tensor, int64 (runs, 3): where neighbours begin in the part, where in the whole,
                and how many there are.
            most: elements of a chunk, a multiple of 64.
        """
        pieces = [np.empty((0, 4), np.int64)]
        for tensor, table in enumerate(runs):
            begin, whole, length = table.T
            lead = np.minimum(-whole % RUN, length)
            number = np.full(len(table), tensor)
            pieces.append(np.stack([number, begin, whole, lead], axis=1))
            pieces.append(_divided(number, begin + lead, whole + lead, length - lead, most))
        tensor, begin, whole, length = np.concatenate(pieces).T
        table = np.stack([tensor, begin, begin, length, whole - whole % RUN, whole % RUN], axis=1)
        table = table[length > 0]
        return cls._of(table[np.lexsort((table[:, 1], table[:, 0]))], most)

    @classmethod
    def _of(cls, table: np.ndarray, most: int) -> Chunks:
        table = np.ascontiguousarray(table, np.int64)
        length = table[:, 3]
        end = np.cumsum(length + COST)
        task = (end - 1) // (most + COST)
        firsts = np.flatnonzero(np.diff(task, prepend=-1))
        tasks = np.append(firsts, len(table)).astype(np.int64)
        return cls(table, tasks, int(length.sum()))


def _pieces(tensors: np.ndarray, rows: np.ndarray, places: np.ndarray, length: int, most: int) -> np.ndarray:
    """Return a table of chunks, one or more for each row; `places` are those of the rows in the gradient."""
    if 0 < length <= most:
        table = np.empty((len(rows), 4), np.int64)
        table[:, 0], table[:, 3] = tensors, length
        np.multiply(rows, length, out=table[:, 1])
        np.multiply(places, length, out=table[:, 2])
        return table
    begins = np.arange(0, length, most)
    begin = np.tile(begins, len(rows))
    tensor, row, place = (np.repeat(x, len(begins)) for x in (tensors, rows, places))
    columns = (tensor, row * length + begin, place * length + begin, np.minimum(length - begin, most))
    return np.stack(columns, axis=1)


def _divided(
    number: np.ndarray, begin: np.ndarray, whole: np.ndarray, length: np.ndarray, most: int
) -> np.ndarray:
    """Return runs in pieces of `most` elements, int64 (pieces, 4)."""
    counts = -(-length // most)
    before = np.repeat(np.cumsum(counts) - counts, counts)
    offset = (np.arange(counts.sum()) - before) * most
    left = np.repeat(length, counts) - offset
    places = [np.repeat(one, counts) for one in (number, begin, whole)]
    return np.stack([places[0], places[1] + offset, places[2] + offset, np.minimum(left, most)], axis=1)


@lru_cache(maxsize=256)
def _dense_of_few(lengths: tuple[int, ...], most: int) -> Chunks:
    return Chunks._dense(lengths, most)
