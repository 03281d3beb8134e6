"""The compiled walk through `param_groups`, gradients and `state`, which notes them or compares them.

It goes by CPython's C interface and reads tensors where libtorch keeps them (`fields.py`). Its tables:

    groups   dict, number of its entries, the first of them, its list of parameters, their number, the first
    listed   parameter, its row
    entries  key, value
    states   key, of a parameter's dict of state its type, the number of items, the first of them
    items    key, row
    rows     one for each tensor: what it is, and where (`Row`)
"""

from __future__ import annotations

import ctypes
from enum import IntEnum

from thalweg.lowering import machine
from thalweg.lowering.look import ahead, fields


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

_FUNCTIONS = ("PyDict_Next", "PyDict_GetItem", "PyList_Size", "PyList_GetItem")

GROUP, LISTED, ENTRY, STATE, ITEM = 6, 2, 2, 4, 2
"""The words of a row of each table."""


def _head(name: str, kind: str = "ptr") -> str:
    return f"""\
  %{name}.at = getelementptr i64, ptr %head, i64 {HEAD.index(name)}
  %{name} = load {kind}, ptr %{name}.at"""


def _field(name: str, kind: str = "i64") -> str:
    return f"""\
  %field.{name}.at = getelementptr i64, ptr %fields, i64 {fields.NAMES.index(name)}
  %{name} = load {kind}, ptr %field.{name}.at"""


def _function(name: str) -> str:
    return f"""\
  %function.{name}.at = getelementptr ptr, ptr %functions, i64 {_FUNCTIONS.index(name)}
  %{name} = load ptr, ptr %function.{name}.at"""


_LINE = 64
_LOOKED_AT = (
    *((word, 0) for word in (Row.OBJECT, Row.PART_OBJECT, Row.STORAGE)),
    *((word, _LINE * i) for word in (Row.IMPL, Row.PART) for i in range(3)),
    *((Row.GRAD, offset) for offset in (0, -_LINE)),
)


def _kept(word: Row, value: str) -> str:
    return f"""\
  %kept.{word.name}.at = getelementptr ptr, ptr %row, i64 {word.value}
  store ptr %{value}, ptr %kept.{word.name}.at"""


_ASSEMBLY = f"""\
{ahead.DECLARED}
; Note a value, or say whether it is the one that was noted.
define internal i1 @same(ptr %cell, i64 %now, i1 %note) alwaysinline {{
  br i1 %note, label %keep, label %compare
keep:
  store i64 %now, ptr %cell
  ret i1 true
compare:
  %then = load i64, ptr %cell
  %equal = icmp eq i64 %now, %then
  ret i1 %equal
}}

; Look at a tensor of libtorch's. 0: as it was; else as `Seen`.
define internal i32 @memory(ptr %fields, ptr %impl, ptr %row, i1 %note, i1 %is.grad) {{
entry:
{_field("sizes")}
{_field("meta_mask")}
{_field("storage")}
{_field("data")}
{_field("deleter")}
{_field("cow_deleter")}
{_field("version")}
{_field("item_sizes", "ptr")}
  %impl.cell = getelementptr i64, ptr %row, i64 {Row.IMPL}
  store ptr %impl, ptr %impl.cell
  %later = getelementptr i64, ptr %row, i64 {ahead.ROWS * WORDS}
{ahead.fetched("%later", _LOOKED_AT)}
  %version.at = getelementptr i8, ptr %impl, i64 %version
  %version.now = load ptr, ptr %version.at
{_kept(Row.VERSION, "version.now")}
  %dims.at = getelementptr i8, ptr %impl, i64 %sizes
  %dims = load i64, ptr %dims.at
  %few = icmp ule i64 %dims, {MOST_DIMS}
  br i1 %few, label %whole, label %other
whole:
  %dims.cell = getelementptr i64, ptr %row, i64 {Row.DIMS}
  %same.dims = call i1 @same(ptr %dims.cell, i64 %dims, i1 %note)
  %numel.at = getelementptr i64, ptr %dims.at, i64 {fields.NUMEL}
  %numel = load i64, ptr %numel.at
  %numel.cell = getelementptr i64, ptr %row, i64 {Row.NUMEL}
  %same.numel = call i1 @same(ptr %numel.cell, i64 %numel, i1 %note)
  %meta.at = getelementptr i64, ptr %dims.at, i64 {fields.META}
  %meta.whole = load i64, ptr %meta.at
  %meta = and i64 %meta.whole, %meta_mask
  %meta.cell = getelementptr i64, ptr %row, i64 {Row.META}
  %same.meta = call i1 @same(ptr %meta.cell, i64 %meta, i1 %note)
  %keys.at = getelementptr i64, ptr %dims.at, i64 {fields.KEYS}
  %keys = load i64, ptr %keys.at
  %keys.cell = getelementptr i64, ptr %row, i64 {Row.KEYS}
  %same.keys = call i1 @same(ptr %keys.cell, i64 %keys, i1 %note)
  %same.a = and i1 %same.dims, %same.numel
  %same.b = and i1 %same.meta, %same.keys
  %same.kind = and i1 %same.a, %same.b
  br i1 %same.kind, label %shape, label %other
shape:
  ; The first {fields.INLINE} sizes and strides lie in the tensor, more of them elsewhere.
  %inside = icmp ule i64 %dims, {fields.INLINE}
  %sizes.inside = getelementptr i64, ptr %dims.at, i64 1
  %sizes.outside = load ptr, ptr %sizes.inside
  %sizes.begin = select i1 %inside, ptr %sizes.inside, ptr %sizes.outside
  %room = select i1 %inside, i64 {fields.INLINE}, i64 %dims
  %strides.begin = getelementptr i64, ptr %sizes.begin, i64 %room
  %shape.cells = getelementptr i64, ptr %row, i64 {Row.SHAPE}
  br label %dimension
dimension:
  %d = phi i64 [ 0, %shape ], [ %d.next, %size ]
  %more = icmp ult i64 %d, %dims
  br i1 %more, label %size, label %place
size:
  %size.at = getelementptr i64, ptr %sizes.begin, i64 %d
  %size.now = load i64, ptr %size.at
  %size.cell = getelementptr [2 x i64], ptr %shape.cells, i64 %d
  %same.size = call i1 @same(ptr %size.cell, i64 %size.now, i1 %note)
  %stride.at = getelementptr i64, ptr %strides.begin, i64 %d
  %stride.now = load i64, ptr %stride.at
  %stride.cell = getelementptr i64, ptr %size.cell, i64 1
  %same.stride = call i1 @same(ptr %stride.cell, i64 %stride.now, i1 %note)
  %d.next = add nuw i64 %d, 1
  %same.both = and i1 %same.size, %same.stride
  br i1 %same.both, label %dimension, label %other
place:
  %storage.at = getelementptr i8, ptr %impl, i64 %storage
  %storage.now = load ptr, ptr %storage.at
{_kept(Row.STORAGE, "storage.now")}
  %no.storage = icmp eq ptr %storage.now, null
  %is.filled = icmp ne i64 %numel, 0
  br i1 %no.storage, label %nowhere, label %stored
nowhere:
  ; Only gradients may be such as lie in other tensors.
  %must.lie = xor i1 %is.grad, true
  %is.lost = and i1 %must.lie, %is.filled
  br i1 %is.lost, label %other, label %done
stored:
  %deleter.at = getelementptr i8, ptr %storage.now, i64 %deleter
  %deleter.now = load i64, ptr %deleter.at
  %is.lazy = icmp eq i64 %deleter.now, %cow_deleter
  br i1 %is.lazy, label %other, label %address
address:
  %base.at = getelementptr i8, ptr %storage.now, i64 %data
  %base = load i64, ptr %base.at
  %offset.at = getelementptr i64, ptr %dims.at, i64 {fields.OFFSET}
  %offset = load i64, ptr %offset.at
  %code = and i64 %meta, 255
  %item.at = getelementptr i64, ptr %item_sizes, i64 %code
  %item = load i64, ptr %item.at
  %distance = mul i64 %offset, %item
  %begin = add i64 %base, %distance
  %no.base = icmp eq i64 %base, 0
  %found = select i1 %no.base, i64 0, i64 %begin
  ; Elements that were taken away from under a tensor are none to step.
  %is.gone = and i1 %no.base, %is.filled
  br i1 %is.gone, label %other, label %done
done:
  %at = phi i64 [ 0, %nowhere ], [ %found, %address ]
  %nothing = icmp eq i64 %at, 0
  %is.empty = and i1 %nothing, %is.grad
  %answer = select i1 %is.empty, i64 1, i64 %at
  %data.cell = getelementptr i64, ptr %row, i64 {Row.DATA}
  %before = load i64, ptr %data.cell
  store i64 %answer, ptr %data.cell
  call void @tell(ptr %row, i64 %answer)
  %differs = icmp ne i64 %answer, %before
  %counts = xor i1 %is.grad, true
  %is.moved = and i1 %differs, %counts
  %moved = select i1 %is.moved, i32 {Seen.MOVED}, i32 0
  ret i32 %moved
other:
  ret i32 {Seen.OTHER}
}}

; Write where a tensor lies into the table of a launch, if one asks.
define internal void @tell(ptr %row, i64 %data) {{
  %told.at = getelementptr i64, ptr %row, i64 {Row.CELL}
  %told = load ptr, ptr %told.at
  %nobody = icmp eq ptr %told, null
  br i1 %nobody, label %done, label %tell
tell:
  store i64 %data, ptr %told
  ret void
done:
  ret void
}}

; Look at what this process holds of a tensor that several share.
define internal i32 @part(ptr %fields, ptr %object, ptr %row, i1 %note, i1 %is.grad) {{
entry:
{_field("impl")}
{_field("borrowed")}
{_field("part")}
{_field("placing")}
{_field("version")}
{_field("tensor_type", "ptr")}
  %placing.at = getelementptr i8, ptr %object, i64 %placing
  %placing.now = load ptr, ptr %placing.at
  %placing.number = ptrtoint ptr %placing.now to i64
  %placing.cell = getelementptr i64, ptr %row, i64 {Row.PLACING}
  %same.placing = call i1 @same(ptr %placing.cell, i64 %placing.number, i1 %note)
  br i1 %same.placing, label %placed, label %other
placed:
  %part.at = getelementptr i8, ptr %object, i64 %part
  %part.now = load ptr, ptr %part.at
{_kept(Row.OBJECT, "object")}
{_kept(Row.PART_OBJECT, "part.now")}
  %no.part = icmp eq ptr %part.now, null
  br i1 %no.part, label %other, label %part.kind
part.kind:
  %type.at = getelementptr i8, ptr %part.now, i64 {fields.TYPE}
  %type = load ptr, ptr %type.at
  %is.plain = icmp eq ptr %type, %tensor_type
  br i1 %is.plain, label %owned, label %other
owned:
  %can.borrow = icmp sge i64 %borrowed, 0
  br i1 %can.borrow, label %flag, label %read
flag:
  %borrowed.flag.at = getelementptr i8, ptr %part.now, i64 %borrowed
  %borrowed.flag = load i8, ptr %borrowed.flag.at
  %is.borrowed = icmp ne i8 %borrowed.flag, 0
  br i1 %is.borrowed, label %other, label %read
read:
  %part.impl.at = getelementptr i8, ptr %part.now, i64 %impl
  %part.impl = load ptr, ptr %part.impl.at
  %answer = call i32 @memory(ptr %fields, ptr %part.impl, ptr %row, i1 %note, i1 %is.grad)
  %part.cell = getelementptr i64, ptr %row, i64 {Row.PART}
  store ptr %part.impl, ptr %part.cell
  %part.version.at = getelementptr ptr, ptr %row, i64 {Row.VERSION}
  %part.version = load ptr, ptr %part.version.at
{_kept(Row.PART_VERSION, "part.version")}
  %whole.impl.at = getelementptr i8, ptr %object, i64 %impl
  %whole.impl = load ptr, ptr %whole.impl.at
  %impl.cell = getelementptr i64, ptr %row, i64 {Row.IMPL}
  store ptr %whole.impl, ptr %impl.cell
  %version.at = getelementptr i8, ptr %whole.impl, i64 %version
  %version.now = load ptr, ptr %version.at
{_kept(Row.VERSION, "version.now")}
  ret i32 %answer
other:
  ret i32 {Seen.OTHER}
}}

; Look at a tensor of Python's.
define internal i32 @object(ptr %fields, ptr %object, ptr %row, i1 %note) {{
entry:
{_field("impl")}
{_field("borrowed")}
{_field("dtensor_type", "ptr")}
  %type.at = getelementptr i8, ptr %object, i64 {fields.TYPE}
  %type = load i64, ptr %type.at
  %type.cell = getelementptr i64, ptr %row, i64 {Row.TYPE}
  %same.type = call i1 @same(ptr %type.cell, i64 %type, i1 %note)
  br i1 %same.type, label %owned, label %other
owned:
  %can.borrow = icmp sge i64 %borrowed, 0
  br i1 %can.borrow, label %ask, label %kind
ask:
  %borrowed.flag.at = getelementptr i8, ptr %object, i64 %borrowed
  %borrowed.flag = load i8, ptr %borrowed.flag.at
  %is.borrowed = icmp ne i8 %borrowed.flag, 0
  br i1 %is.borrowed, label %other, label %kind
kind:
  %type.now = inttoptr i64 %type to ptr
  %is.dtensor = icmp eq ptr %type.now, %dtensor_type
  br i1 %is.dtensor, label %dtensor, label %read
dtensor:
  %answer.part = call i32 @part(ptr %fields, ptr %object, ptr %row, i1 %note, i1 false)
  ret i32 %answer.part
read:
{_kept(Row.OBJECT, "object")}
  %impl.at = getelementptr i8, ptr %object, i64 %impl
  %tensor = load ptr, ptr %impl.at
  %answer = call i32 @memory(ptr %fields, ptr %tensor, ptr %row, i1 %note, i1 false)
  ret i32 %answer
other:
  ret i32 {Seen.OTHER}
}}

; Look at the gradient of a parameter that has been looked at; its row is the next.
define internal i32 @gradient(ptr %head, ptr %fields, ptr %row, i1 %note) {{
entry:
{_field("grad", "ptr")}
{_field("object")}
{_field("dtensor_type", "ptr")}
{_field("undefined", "ptr")}
  %impl.cell = getelementptr i64, ptr %row, i64 {Row.IMPL}
  %impl = load ptr, ptr %impl.cell
  %grad.row = getelementptr i64, ptr %row, i64 {WORDS}
  %tensor = call ptr %grad(ptr %impl)
{_kept(Row.GRAD, "tensor")}
  %grad.impl = load ptr, ptr %tensor
  %none = icmp eq ptr %grad.impl, %undefined
  br i1 %none, label %missing, label %present
missing:
{_head("absent", "i64")}
  %absent.next = add i64 %absent, 1
  store i64 %absent.next, ptr %absent.at
  %data.cell = getelementptr i64, ptr %grad.row, i64 {Row.DATA}
  store i64 0, ptr %data.cell
  call void @tell(ptr %grad.row, i64 0)
  br i1 %note, label %unknown, label %same
unknown:
  %dims.cell = getelementptr i64, ptr %grad.row, i64 {Row.DIMS}
  store i64 -1, ptr %dims.cell
  ret i32 0
same:
  ret i32 0
present:
  %part.cell = getelementptr i64, ptr %row, i64 {Row.PART}
  %part.now = load ptr, ptr %part.cell
  %is.plain = icmp eq ptr %part.now, null
  br i1 %is.plain, label %plain, label %find
plain:
  %answer = call i32 @memory(ptr %fields, ptr %grad.impl, ptr %grad.row, i1 %note, i1 true)
  ret i32 %answer
find:
  ; The gradient of what is shared is shared: only Python's object knows its part.
  %object.at = getelementptr i8, ptr %grad.impl, i64 %object
  %object.tagged = load i64, ptr %object.at
  %object.number = and i64 %object.tagged, -2
  %object.now = inttoptr i64 %object.number to ptr
  %no.object = icmp eq ptr %object.now, null
  br i1 %no.object, label %other, label %kind
kind:
  %type.at = getelementptr i8, ptr %object.now, i64 {fields.TYPE}
  %type = load ptr, ptr %type.at
  %is.dtensor = icmp eq ptr %type, %dtensor_type
  br i1 %is.dtensor, label %dtensor, label %other
dtensor:
  %answer.part = call i32 @part(ptr %fields, ptr %object.now, ptr %grad.row, i1 %note, i1 true)
  ret i32 %answer.part
other:
  ret i32 {Seen.OTHER}
}}

define internal i32 @group(ptr %head, ptr %fields, ptr %functions, ptr %dict, ptr %group, i1 %note) {{
entry:
  %position = alloca i64
  %key.at = alloca ptr
  %value.at = alloca ptr
{_function("PyDict_Next")}
{_function("PyDict_GetItem")}
{_function("PyList_Size")}
{_function("PyList_GetItem")}
{_head("entries")}
{_head("listed")}
{_field("params", "ptr")}
  %dict.now = ptrtoint ptr %dict to i64
  %same.dict = call i1 @same(ptr %group, i64 %dict.now, i1 %note)
  br i1 %same.dict, label %open, label %other
open:
  %count.cell = getelementptr i64, ptr %group, i64 1
  %first.at = getelementptr i64, ptr %group, i64 2
  %first = load i64, ptr %first.at
  %count = load i64, ptr %count.cell
  store i64 0, ptr %position
  br label %entry.next
entry.next:
  %e = phi i64 [ 0, %open ], [ %e.next, %same.key ]
  %changed = phi i32 [ 0, %open ], [ %changed.next, %same.key ]
  %has = call i32 %PyDict_Next(ptr %dict, ptr %position, ptr %key.at, ptr %value.at)
  %ended = icmp eq i32 %has, 0
  br i1 %ended, label %counted, label %entry.look
entry.look:
  %room = icmp slt i64 %e, %count
  br i1 %room, label %entry.compare, label %other
entry.compare:
  %index = add i64 %first, %e
  %cell = getelementptr [{ENTRY} x i64], ptr %entries, i64 %index
  %key = load i64, ptr %key.at
  %is.key = call i1 @same(ptr %cell, i64 %key, i1 %note)
  br i1 %is.key, label %same.key, label %other
same.key:
  %value.cell = getelementptr i64, ptr %cell, i64 1
  %value = load i64, ptr %value.at
  %is.value = call i1 @same(ptr %value.cell, i64 %value, i1 %note)
  %changed.one = select i1 %is.value, i32 0, i32 {Seen.VALUES}
  %changed.next = or i32 %changed, %changed.one
  %e.next = add nuw i64 %e, 1
  br label %entry.next
counted:
  %all = icmp eq i64 %e, %count
  br i1 %all, label %list, label %other
list:
  %list.now = call ptr %PyDict_GetItem(ptr %dict, ptr %params)
  %list.number = ptrtoint ptr %list.now to i64
  %list.cell = getelementptr i64, ptr %group, i64 3
  %list.then = load i64, ptr %list.cell
  %same.list = icmp eq i64 %list.number, %list.then
  br i1 %same.list, label %length, label %other
length:
  %length.now = call i64 %PyList_Size(ptr %list.now)
  %length.cell = getelementptr i64, ptr %group, i64 4
  %length.then = load i64, ptr %length.cell
  %same.length = icmp eq i64 %length.now, %length.then
  %begin.at = getelementptr i64, ptr %group, i64 5
  %begin = load i64, ptr %begin.at
  br i1 %same.length, label %param, label %other
param:
  %j = phi i64 [ 0, %length ], [ %j.next, %param.next ]
  %seen = phi i32 [ %changed, %length ], [ %seen.next, %param.next ]
  %more = icmp slt i64 %j, %length.now
  br i1 %more, label %param.look, label %done
param.look:
  %object = call ptr %PyList_GetItem(ptr %list.now, i64 %j)
  %l = add i64 %begin, %j
  %listed.cell = getelementptr [{LISTED} x i64], ptr %listed, i64 %l
  %object.number = ptrtoint ptr %object to i64
  %object.then = load i64, ptr %listed.cell
  %same.object = icmp eq i64 %object.number, %object.then
  br i1 %same.object, label %param.row, label %other
param.row:
  %row.at = getelementptr i64, ptr %listed.cell, i64 1
  %row = load ptr, ptr %row.at
  %no.row = icmp eq ptr %row, null
  br i1 %no.row, label %param.next, label %param.memory
param.memory:
  %found = call i32 @object(ptr %fields, ptr %object, ptr %row, i1 %note)
  %is.other = icmp eq i32 %found, {Seen.OTHER}
  br i1 %is.other, label %other, label %param.grad
param.grad:
  %grad.found = call i32 @gradient(ptr %head, ptr %fields, ptr %row, i1 %note)
  %grad.other = icmp eq i32 %grad.found, {Seen.OTHER}
  br i1 %grad.other, label %other, label %param.next
param.next:
  %seen.one = phi i32 [ 0, %param.row ], [ %found, %param.grad ]
  %seen.next = or i32 %seen, %seen.one
  %j.next = add nuw i64 %j, 1
  br label %param
done:
  ret i32 %seen
other:
  ret i32 {Seen.OTHER}
}}

; Look at the state of one parameter.
define internal i32 @own(ptr %head, ptr %fields, ptr %functions, ptr %dict, ptr %state, i1 %note) {{
entry:
  %position = alloca i64
  %key.at = alloca ptr
  %value.at = alloca ptr
{_function("PyDict_Next")}
{_head("items")}
{_field("tensor_type", "ptr")}
{_field("parameter_type", "ptr")}
{_field("dtensor_type", "ptr")}
  %count.at = getelementptr i64, ptr %state, i64 2
  %count = load i64, ptr %count.at
  %first.at = getelementptr i64, ptr %state, i64 3
  %first = load i64, ptr %first.at
  store i64 0, ptr %position
  br label %item
item:
  %i = phi i64 [ 0, %entry ], [ %i.next, %item.next ]
  %seen = phi i32 [ 0, %entry ], [ %seen.next, %item.next ]
  %has = call i32 %PyDict_Next(ptr %dict, ptr %position, ptr %key.at, ptr %value.at)
  %ended = icmp eq i32 %has, 0
  br i1 %ended, label %counted, label %look
look:
  %room = icmp slt i64 %i, %count
  br i1 %room, label %compare, label %other
compare:
  %index = add i64 %first, %i
  %cell = getelementptr [{ITEM} x i64], ptr %items, i64 %index
  %key = load i64, ptr %key.at
  %is.key = call i1 @same(ptr %cell, i64 %key, i1 %note)
  %row.at = getelementptr i64, ptr %cell, i64 1
  %value = load ptr, ptr %value.at
  br i1 %is.key, label %choose, label %other
choose:
  br i1 %note, label %kind, label %known
kind:
  %type.at = getelementptr i8, ptr %value, i64 {fields.TYPE}
  %type = load ptr, ptr %type.at
  %is.tensor = icmp eq ptr %type, %tensor_type
  %is.parameter = icmp eq ptr %type, %parameter_type
  %is.dtensor = icmp eq ptr %type, %dtensor_type
  %is.one = or i1 %is.tensor, %is.parameter
  %has.memory = or i1 %is.one, %is.dtensor
  br i1 %has.memory, label %new.row, label %no.row
new.row:
{_head("next_row")}
  store ptr %next_row, ptr %row.at
  %after = getelementptr i64, ptr %next_row, i64 {WORDS}
  store ptr %after, ptr %next_row.at
  br label %known
no.row:
  store ptr null, ptr %row.at
  br label %known
known:
  %row = load ptr, ptr %row.at
  %nothing = icmp eq ptr %row, null
  br i1 %nothing, label %item.next, label %memory
memory:
  %found = call i32 @object(ptr %fields, ptr %value, ptr %row, i1 %note)
  %is.other = icmp eq i32 %found, {Seen.OTHER}
  br i1 %is.other, label %other, label %item.next
item.next:
  %seen.one = phi i32 [ 0, %known ], [ %found, %memory ]
  %seen.next = or i32 %seen, %seen.one
  %i.next = add nuw i64 %i, 1
  br label %item
counted:
  %all = icmp eq i64 %i, %count
  br i1 %all, label %done, label %other
done:
  ret i32 %seen
other:
  ret i32 {Seen.OTHER}
}}

define i32 @look(ptr %head, ptr %groups.now, ptr %state.now, i32 %noting) {{
entry:
  %position = alloca i64
  %key.at = alloca ptr
  %value.at = alloca ptr
  %note = icmp ne i32 %noting, 0
{_head("functions")}
{_head("fields")}
{_head("groups")}
{_head("group_count", "i64")}
{_head("states")}
{_head("state_count", "i64")}
{_head("absent", "i64")}
{_function("PyDict_Next")}
{_function("PyList_Size")}
{_function("PyList_GetItem")}
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


class _Walk:
    """The compiled walk. It keeps the GIL: no other thread may take away meanwhile what it looks at."""

    def __init__(self) -> None:
        functions = [getattr(ctypes.pythonapi, name) for name in _FUNCTIONS]
        self._functions = machine.addresses_of(functions)
        self.functions = self._functions.ctypes.data
        (self.address,) = machine.compile_to_address(_ASSEMBLY, ("look",))
        thing, pointer, integer = ctypes.py_object, ctypes.c_void_p, ctypes.c_int32
        self.look = ctypes.PYFUNCTYPE(integer, pointer, thing, thing, integer)(self.address)


@machine.Once
def walk() -> _Walk:
    """Return the walk, compiled once."""
    return _Walk()
