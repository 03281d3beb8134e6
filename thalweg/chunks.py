"""Chunks: the one shape of work that every kernel takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SIZE = 16_384
"""Most elements in a chunk of a dense tensor: small enough to share out evenly among threads, large
enough that a chunk's own cost (tens of nanoseconds) is nothing beside its elements."""

COST = 64
"""What a chunk costs beside its elements, in elements."""


@dataclass(frozen=True)
class Chunks:
    """Pieces of tensors, and tasks that are runs of them.

    Args:
        table: int64 (chunks, 4): tensor, offset, offset in the gradient, length; in elements. None is
            empty.
        tasks: int64 (tasks + 1,): the first chunk of each task, then the number of chunks. Tasks are
            what threads claim; each is worth about `SIZE` elements.
        elements: the sum of the lengths.
    """

    table: np.ndarray
    tasks: np.ndarray
    elements: int

    @classmethod
    def dense(cls, lengths: Sequence[int]) -> Chunks:
        """Return the chunks of whole tensors of the given lengths, in elements."""
        whole = np.asarray(lengths, np.int64)
        counts = -(-whole // SIZE)
        tensor = np.repeat(np.arange(len(whole)), counts)
        before = np.repeat(np.cumsum(counts) - counts, counts)
        offset = (np.arange(len(tensor)) - before) * SIZE
        length = np.minimum(whole[tensor] - offset, SIZE)
        return cls._of(tensor, offset, offset, length)

    @classmethod
    def rows(cls, numbers: Sequence[np.ndarray], lengths: Sequence[int]) -> Chunks:
        """Return one chunk for each row that a sparse gradient names.

        Args:
            numbers: for each tensor, the numbers of its rows in the order of the gradient's values.
            lengths: for each tensor, the length of a row, in elements.
        """
        counts = [len(rows) if length else 0 for rows, length in zip(numbers, lengths, strict=True)]
        tensor = np.repeat(np.arange(len(counts)), counts)
        length = np.asarray(lengths, np.int64)[tensor]
        row = np.concatenate([r[:n] for r, n in zip(numbers, counts, strict=True)])
        place = np.concatenate([np.arange(n) for n in counts])
        return cls._of(tensor, row * length, place * length, length)

    @classmethod
    def _of(cls, tensor: np.ndarray, offset: np.ndarray, offset_g: np.ndarray, length: np.ndarray) -> Chunks:
        table = np.ascontiguousarray(np.stack([tensor, offset, offset_g, length], axis=1), np.int64)
        end = np.cumsum(length + COST)
        task = (end - 1) // (SIZE + COST)
        firsts = np.flatnonzero(np.diff(task, prepend=-1))
        tasks = np.append(firsts, len(table)).astype(np.int64)
        return cls(table, tasks, int(length.sum()))
