"""What a stage has measured chunk by chunk, gathered tensor by tensor and added up over all of them.

They are added in the order of chunks and of tensors, whoever worked them out: sums are the same for any
number of threads, whether a step measures and steps in one call (`update.py`) or in several.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from thalweg.lowering import machine
from thalweg.lowering.chunks import Chunks
from thalweg.lowering.cpu.instructions import words

_GATHER = (
    *("chunks", "chunk_table", "chunk_words", "sums", "count"),
    *("columns", "measures", "width", "tensors", "grads"),
)
_TOTAL = ("parts", "part_table", "found")
_PART = ("measures", "width", "column", "tensors")


ASSEMBLY = f"""\
; Add up, tensor by tensor, what was measured chunk by chunk; nothing of a tensor without a gradient.
define void @gather(ptr %table) {{
entry:
{words(_GATHER, numbers="chunks chunk_words count width tensors")}
  br label %clear

clear:
  %t = phi i64 [ 0, %entry ], [ %t.next, %clear.next ]
  %left = icmp slt i64 %t, %tensors
  br i1 %left, label %clear.row, label %chunk

clear.row:
  %row.begin = mul i64 %t, %width
  br label %clear.one

clear.one:
  %k = phi i64 [ 0, %clear.row ], [ %k.next, %clear.do ]
  %k.left = icmp slt i64 %k, %count
  br i1 %k.left, label %clear.do, label %clear.next

clear.do:
  %column.at = getelementptr i64, ptr %columns, i64 %k
  %column = load i64, ptr %column.at
  %place = add i64 %row.begin, %column
  %cell = getelementptr double, ptr %measures, i64 %place
  store double 0.0, ptr %cell
  %k.next = add nuw nsw i64 %k, 1
  br label %clear.one

clear.next:
  %t.next = add nuw nsw i64 %t, 1
  br label %clear

chunk:
  %c = phi i64 [ 0, %clear ], [ %c.next, %chunk.next ]
  %c.left = icmp slt i64 %c, %chunks
  br i1 %c.left, label %ask, label %done

ask:
  %chunk.place = mul i64 %c, %chunk_words
  %tensor.at = getelementptr i64, ptr %chunk_table, i64 %chunk.place
  %tensor = load i64, ptr %tensor.at
  %grad.at = getelementptr i64, ptr %grads, i64 %tensor
  %grad = load i64, ptr %grad.at
  %absent = icmp eq i64 %grad, 0
  %sums.begin = mul i64 %c, %count
  %own.begin = mul i64 %tensor, %width
  br i1 %absent, label %chunk.next, label %one

one:
  %j = phi i64 [ 0, %ask ], [ %j.next, %add ]
  %j.left = icmp slt i64 %j, %count
  br i1 %j.left, label %add, label %chunk.next

add:
  %sum.place = add i64 %sums.begin, %j
  %sum.at = getelementptr double, ptr %sums, i64 %sum.place
  %sum = load double, ptr %sum.at
  %into.at = getelementptr i64, ptr %columns, i64 %j
  %into = load i64, ptr %into.at
  %own.place = add i64 %own.begin, %into
  %own.at = getelementptr double, ptr %measures, i64 %own.place
  %so.far = load double, ptr %own.at
  %more = fadd double %so.far, %sum
  store double %more, ptr %own.at
  %j.next = add nuw nsw i64 %j, 1
  br label %one

chunk.next:
  %c.next = add nuw nsw i64 %c, 1
  br label %chunk

done:
  ret void
}}

; Have all tensors read the sum of a measure over all of them, batch by batch.
define void @total(ptr %table) {{
entry:
{words(_TOTAL, numbers="parts")}
  br label %part

part:
  %p = phi i64 [ 0, %entry ], [ %p.next, %part.next ]
  %whole = phi double [ -0.0, %entry ], [ %whole.next, %part.next ]
  %left = icmp slt i64 %p, %parts
  br i1 %left, label %open, label %keep

open:
  %part.place = mul i64 %p, {len(_PART)}
  %part.row = getelementptr i64, ptr %part_table, i64 %part.place
{words(_PART, numbers="width column tensors", table="%part.row")}
  br label %tensor

tensor:
  %t = phi i64 [ 0, %open ], [ %t.next, %tensor.add ]
  %sum = phi double [ -0.0, %open ], [ %sum.next, %tensor.add ]
  %t.left = icmp slt i64 %t, %tensors
  br i1 %t.left, label %tensor.add, label %part.next

tensor.add:
  %row = mul i64 %t, %width
  %place = add i64 %row, %column
  %cell = getelementptr double, ptr %measures, i64 %place
  %value = load double, ptr %cell
  %sum.next = fadd double %sum, %value
  %t.next = add nuw nsw i64 %t, 1
  br label %tensor

part.next:
  %whole.next = fadd double %whole, %sum
  %p.next = add nuw nsw i64 %p, 1
  br label %part

keep:
  store double %whole, ptr %found
  br label %share

share:
  %q = phi i64 [ 0, %keep ], [ %q.next, %share.next ]
  %q.left = icmp slt i64 %q, %parts
  br i1 %q.left, label %share.open, label %done

share.open:
  %share.place = mul i64 %q, {len(_PART)}
  %share.row = getelementptr i64, ptr %part_table, i64 %share.place
{words([f"to.{one}" for one in _PART], numbers="to.width to.column to.tensors", table="%share.row")}
  br label %share.one

share.one:
  %u = phi i64 [ 0, %share.open ], [ %u.next, %share.do ]
  %u.left = icmp slt i64 %u, %to.tensors
  br i1 %u.left, label %share.do, label %share.next

share.do:
  %to.row = mul i64 %u, %to.width
  %to.place = add i64 %to.row, %to.column
  %to.cell = getelementptr double, ptr %to.measures, i64 %to.place
  store double %whole, ptr %to.cell
  %u.next = add nuw nsw i64 %u, 1
  br label %share.one

share.next:
  %q.next = add nuw nsw i64 %q, 1
  br label %share

done:
  ret void
}}
"""


@cache
def _gather() -> Callable[[int], None]:
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(*machine.compile_to_address(ASSEMBLY, ("gather",)))


class Gather:
    """Writes what a launch has measured to where its tensors read it.

    Args:
        columns: which columns of `measures` the stage measures.
        measures: float64 (tensors, measures of the recipe); 0 of what has no gradient.
        grads: int64 (tensors,), where gradients lie, 0 if nowhere.
    """

    def __init__(self, columns: Sequence[int], measures: np.ndarray, grads: np.ndarray) -> None:
        self._columns = np.array(columns, np.int64)
        self._kept = (measures, grads)
        self.table = np.zeros(len(_GATHER), np.int64)
        tensors, width = measures.shape
        self._set(columns=self._columns, measures=measures, width=width, tensors=tensors, grads=grads)
        self._set(count=len(columns))

    def _set(self, **values: np.ndarray | int) -> None:
        for name, value in values.items():
            self.table[_GATHER.index(name)] = value if isinstance(value, int) else value.ctypes.data

    def read(self, chunks: Chunks, sums: np.ndarray) -> None:
        """Gather from `sums`, float64 (chunks, measures of the stage), from now on."""
        self._read = (chunks, sums)
        count, size = chunks.table.shape
        self._set(chunks=count, chunk_table=chunks.table, chunk_words=size, sums=sums)

    def __call__(self) -> None:
        """Gather."""
        _gather()(self.table.ctypes.data)


class Total:
    """The sum of a measure over all tensors, for compiled code to add up and have all of them read.

    Args:
        parts: for each batch its measures, float64 (tensors, measures), and the column.
    """

    def __init__(self, parts: Sequence[tuple[np.ndarray, int]]) -> None:
        self._measures = [measures for measures, _ in parts]
        rows = [(one.ctypes.data, one.shape[1], column, len(one)) for one, column in parts]
        self._parts = np.array(rows, np.int64)
        self.found = np.zeros(1)
        self.table = np.array([len(rows), self._parts.ctypes.data, self.found.ctypes.data], np.int64)

    @property
    def value(self) -> float:
        """What was found last."""
        return float(self.found[0])
