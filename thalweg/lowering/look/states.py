"""How the walk looks at the state of one parameter: the same keys, and each tensor under them."""

from __future__ import annotations

from thalweg.lowering.look import fields
from thalweg.lowering.look.reading import field, function, head
from thalweg.lowering.look.tables import ITEM, WORDS, Seen

LLVM = f"""\
; Look at the state of one parameter.
define internal i32 @own(ptr %head, ptr %fields, ptr %functions, ptr %dict, ptr %state, i1 %note) {{
entry:
  %position = alloca i64
  %key.at = alloca ptr
  %value.at = alloca ptr
{function("PyDict_Next")}
{head("items")}
{field("tensor_type", "ptr")}
{field("parameter_type", "ptr")}
{field("dtensor_type", "ptr")}
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
{head("next_row")}
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
"""
