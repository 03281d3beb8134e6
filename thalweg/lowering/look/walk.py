"""The compiled walk through `param_groups`, gradients and `state`, which notes them or compares them.

It goes by CPython's C interface, reads tensors where libtorch keeps them (`fields.py`), and notes them in its
tables (`tables.py`). From the whole down to a tensor: `groups.py` and `states.py`, `objects.py`, `memory.py`.
"""

from __future__ import annotations

import ctypes

from thalweg.lowering import machine
from thalweg.lowering.look import ahead, fields, groups, memory, objects, states
from thalweg.lowering.look.reading import FUNCTIONS, function, head
from thalweg.lowering.look.tables import GROUP, STATE, Seen

_LLVM = f"""\
define i32 @look(ptr %head, ptr %groups.now, ptr %state.now, i32 %noting) {{
entry:
  %position = alloca i64
  %key.at = alloca ptr
  %value.at = alloca ptr
  %note = icmp ne i32 %noting, 0
{head("functions")}
{head("fields")}
{head("groups")}
{head("group_count", "i64")}
{head("states")}
{head("state_count", "i64")}
{head("absent", "i64")}
{function("PyDict_Next")}
{function("PyList_Size")}
{function("PyList_GetItem")}
  store i64 0, ptr %absent.at
  %size = call i64 %PyList_Size(ptr %groups.now)
  %same.size = icmp eq i64 %size, %group_count
  br i1 %same.size, label %group, label %other
group:
  %g = phi i64 [ 0, %entry ], [ %g.next, %group.look ]
  %seen = phi i32 [ 0, %entry ], [ %seen.next, %group.look ]
  %stop = and i32 %seen, {Seen.OTHER}
  %bad = icmp ne i32 %stop, 0
  br i1 %bad, label %other, label %group.more
group.more:
  %more = icmp slt i64 %g, %size
  br i1 %more, label %group.look, label %states.begin
group.look:
  %dict = call ptr %PyList_GetItem(ptr %groups.now, i64 %g)
  %group.cell = getelementptr [{GROUP} x i64], ptr %groups, i64 %g
  %found = call i32 @group(ptr %head, ptr %fields, ptr %functions, ptr %dict, ptr %group.cell, i1 %note)
  %seen.next = or i32 %seen, %found
  %g.next = add nuw i64 %g, 1
  br label %group
states.begin:
  store i64 0, ptr %position
  br label %state
state:
  %s = phi i64 [ 0, %states.begin ], [ %s.next, %state.next ]
  %had = phi i32 [ %seen, %states.begin ], [ %had.next, %state.next ]
  %has = call i32 %PyDict_Next(ptr %state.now, ptr %position, ptr %key.at, ptr %value.at)
  %ended = icmp eq i32 %has, 0
  br i1 %ended, label %counted, label %state.look
state.look:
  %room = icmp slt i64 %s, %state_count
  br i1 %room, label %state.key, label %other
state.key:
  %state.cell = getelementptr [{STATE} x i64], ptr %states, i64 %s
  %key = load i64, ptr %key.at
  %is.key = call i1 @same(ptr %state.cell, i64 %key, i1 %note)
  br i1 %is.key, label %state.kind, label %other
state.kind:
  %value = load ptr, ptr %value.at
  %kind.at = getelementptr i64, ptr %state.cell, i64 1
  %kind = load ptr, ptr %kind.at
  %is.own = icmp ne ptr %kind, null
  br i1 %is.own, label %state.type, label %state.next
state.type:
  %type.at = getelementptr i8, ptr %value, i64 {fields.TYPE}
  %type = load ptr, ptr %type.at
  %is.kind = icmp eq ptr %type, %kind
  br i1 %is.kind, label %state.own, label %other
state.own:
  %own = call i32 @own(ptr %head, ptr %fields, ptr %functions, ptr %value, ptr %state.cell, i1 %note)
  %own.other = icmp eq i32 %own, {Seen.OTHER}
  br i1 %own.other, label %other, label %state.next
state.next:
  %had.one = phi i32 [ 0, %state.kind ], [ %own, %state.own ]
  %had.next = or i32 %had, %had.one
  %s.next = add nuw i64 %s, 1
  br label %state
counted:
  %all = icmp eq i64 %s, %state_count
  br i1 %all, label %done, label %other
done:
  ret i32 %had
other:
  ret i32 {Seen.OTHER}
}}
"""

_ASSEMBLY = "\n".join((ahead.DECLARED, memory.LLVM, objects.LLVM, groups.LLVM, states.LLVM, _LLVM))


class _Walk:
    """The compiled walk. It keeps the GIL: no other thread may take away meanwhile what it looks at."""

    def __init__(self) -> None:
        functions = [getattr(ctypes.pythonapi, name) for name in FUNCTIONS]
        self._functions = machine.addresses_of(functions)
        self.functions = self._functions.ctypes.data
        (self.address,) = machine.compile_to_address(_ASSEMBLY, ("look",))
        thing, pointer, integer = ctypes.py_object, ctypes.c_void_p, ctypes.c_int32
        self.look = ctypes.PYFUNCTYPE(integer, pointer, thing, thing, integer)(self.address)


@machine.Once
def walk() -> _Walk:
    """Return the walk, compiled once."""
    return _Walk()
