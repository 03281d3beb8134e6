"""How the walk looks at a parameter group: the same dict and entries, and each parameter of its list."""

from __future__ import annotations

from thalweg.lowering.look.reading import field, function, head
from thalweg.lowering.look.tables import ENTRY, LISTED, Seen

LLVM = f"""\
define internal i32 @group(ptr %head, ptr %fields, ptr %functions, ptr %dict, ptr %group, i1 %note) {{
entry:
  %position = alloca i64
  %key.at = alloca ptr
  %value.at = alloca ptr
{function("PyDict_Next")}
{function("PyDict_GetItem")}
{function("PyList_Size")}
{function("PyList_GetItem")}
{head("entries")}
{head("listed")}
{field("params", "ptr")}
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
"""
