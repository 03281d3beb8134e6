"""A whole update in one call: look, measure stage after stage, share what is measured over all, and step.

Between two calls of Python's another thread could change what was looked at, so each has to look anew. In one
call there is one look.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from thalweg.lowering import machine
from thalweg.lowering.cpu import gather
from thalweg.lowering.cpu.gather import Total
from thalweg.lowering.cpu.instructions import words
from thalweg.lowering.cpu.kernels import Launch, Run
from thalweg.lowering.look.look import Look

REFUSED = 256
"""The answer of an update that a measure forbids: all is measured, and nothing stepped."""

_STAGE = ("launches", "launch_count", "gathers", "gather_count", "totals", "total_count")
_UPDATE = ("stages", "stage_count", "skips", "skip_count", "run")

_ASSEMBLY = f"""\
{gather.ASSEMBLY}
define internal void @stage(ptr %table, ptr %run, i64 %threads, ptr %parallel) {{
entry:
{words(_STAGE, numbers="launch_count gather_count total_count")}
  call void %run(ptr %launches, i64 %launch_count, i64 %threads, ptr %parallel, ptr null)
  br label %gather

gather:
  %g = phi i64 [ 0, %entry ], [ %g.next, %gather.do ]
  %g.left = icmp slt i64 %g, %gather_count
  br i1 %g.left, label %gather.do, label %total

gather.do:
  %gather.at = getelementptr ptr, ptr %gathers, i64 %g
  %gather.table = load ptr, ptr %gather.at
  call void @gather(ptr %gather.table)
  %g.next = add nuw nsw i64 %g, 1
  br label %gather

total:
  %s = phi i64 [ 0, %gather ], [ %s.next, %total.do ]
  %s.left = icmp slt i64 %s, %total_count
  br i1 %s.left, label %total.do, label %done

total.do:
  %total.at = getelementptr ptr, ptr %totals, i64 %s
  %total.table = load ptr, ptr %total.at
  call void @total(ptr %total.table)
  %s.next = add nuw nsw i64 %s, 1
  br label %total

done:
  ret void
}}

; Measure all stages, and step unless what must be zero is not. 0: stepped.
define internal i32 @go(ptr %table, ptr %launches, i64 %count, i64 %threads, ptr %parallel, ptr %bump) {{
entry:
{words(_UPDATE, numbers="stage_count skip_count")}
  br label %stage

stage:
  %s = phi i64 [ 0, %entry ], [ %s.next, %stage.do ]
  %s.left = icmp slt i64 %s, %stage_count
  br i1 %s.left, label %stage.do, label %skip

stage.do:
  %stage.at = getelementptr ptr, ptr %stages, i64 %s
  %stage.table = load ptr, ptr %stage.at
  call void @stage(ptr %stage.table, ptr %run, i64 %threads, ptr %parallel)
  %s.next = add nuw nsw i64 %s, 1
  br label %stage

skip:
  %k = phi i64 [ 0, %stage ], [ %k.next, %skip.next ]
  %k.left = icmp slt i64 %k, %skip_count
  br i1 %k.left, label %skip.ask, label %step

skip.ask:
  %skip.at = getelementptr ptr, ptr %skips, i64 %k
  %skip.cell = load ptr, ptr %skip.at
  %found = load double, ptr %skip.cell
  %is.found = fcmp ogt double %found, 0.0
  br i1 %is.found, label %refuse, label %skip.next

skip.next:
  %k.next = add nuw nsw i64 %k, 1
  br label %skip

refuse:
  ret i32 {REFUSED}

step:
  call void %run(ptr %launches, i64 %count, i64 %threads, ptr %parallel, ptr %bump)
  ret i32 0
}}

; Look, and do so if everything is as it was; with Python's lock given up, where there is a way to.
define i32 @update(ptr %head, ptr %groups, ptr %state, ptr %look, ptr %table, ptr %launches, i64 %count,
    i64 %threads, ptr %parallel, ptr %bump, ptr %save, ptr %restore) {{
entry:
  %seen = call i32 %look(ptr %head, ptr %groups, ptr %state, i32 0)
  %same = icmp eq i32 %seen, 0
  br i1 %same, label %start, label %out

start:
  %keeps = icmp eq ptr %save, null
  br i1 %keeps, label %locked, label %unlocked

locked:
  %answer = call i32 @go(ptr %table, ptr %launches, i64 %count, i64 %threads, ptr %parallel, ptr %bump)
  ret i32 %answer

unlocked:
  %thread = call ptr %save()
  %later = call i32 @go(ptr %table, ptr %launches, i64 %count, i64 %threads, ptr %parallel, ptr %bump)
  call void %restore(ptr %thread)
  ret i32 %later

out:
  ret i32 %seen
}}
"""


@cache
def _update() -> Callable[..., int]:
    (address,) = machine.compile_to_address(_ASSEMBLY, ("update",))
    pointer, number, thing = ctypes.c_void_p, ctypes.c_int64, ctypes.py_object
    # It keeps Python's lock, or gives it up itself.
    kinds: Any = (pointer, thing, thing, pointer, pointer, pointer, number, number, *[pointer] * 4)
    return ctypes.PYFUNCTYPE(ctypes.c_int32, *kinds)(address)


class Stage(NamedTuple):
    """What is measured at a stage.

    Args:
        launches: measure it, batch by batch.
        totals: what is measured over all of them.
        skips: those that forbid the step, unless they are zero.
    """

    launches: Sequence[Launch]
    totals: Sequence[Total]
    skips: Sequence[Total]


class Update:
    """Stages and the launches of a step, in one call that nothing interrupts.

    Args:
        stages: in order.
        run: steps.
    """

    def __init__(self, stages: Sequence[Stage], run: Run) -> None:
        self._kept: list[Any] = [stages]
        self._run = run
        tables = [self._stage(stage) for stage in stages]
        skips = [total.found for stage in stages for total in stage.skips]
        self._table = self._pointers([*self._list(tables), *self._list(skips), run.address])
        self.is_long = run.is_long or any(launch.is_long for stage in stages for launch in stage.launches)
        """Whether it takes so long that other threads should not wait for Python's lock meanwhile."""

    def _stage(self, stage: Stage) -> np.ndarray:
        launches = self._list([launch.table for launch in stage.launches])
        gathers = self._list([launch.gather.table for launch in stage.launches])
        return self._pointers([*launches, *gathers, *self._list([total.table for total in stage.totals])])

    def _list(self, tables: Sequence[np.ndarray]) -> tuple[int, int]:
        return self._pointers([table.ctypes.data for table in tables]).ctypes.data, len(tables)

    def _pointers(self, values: Sequence[int]) -> np.ndarray:
        table = np.array(values, np.int64)
        self._kept.append(table)
        return table

    def after(self, look: Look, groups: list[dict[str, Any]], state: dict[Any, Any]) -> int:
        """Look, and if nothing has changed measure and step.

        If it `is_long`, the caller keeps alive what is looked at.

        Returns:
            The bits of what has changed; `REFUSED`, if nothing has, but the step was forbidden.
        """
        walk, head = look.walk
        return _update()(
            head, groups, state, walk, self._table.ctypes.data, *self._run.arguments(self.is_long)
        )
