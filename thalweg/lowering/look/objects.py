"""How the walk looks at Python's tensors: at parameters, gradients, and parts of what processes share."""

from __future__ import annotations

from thalweg.lowering.look import fields
from thalweg.lowering.look.reading import field, head, kept
from thalweg.lowering.look.tables import WORDS, Row, Seen

LLVM = f"""\
; Look at what this process holds of a tensor that several share.
define internal i32 @part(ptr %fields, ptr %object, ptr %row, i1 %note, i1 %is.grad) {{
entry:
{field("impl")}
{field("borrowed")}
{field("part")}
{field("placing")}
{field("version")}
{field("tensor_type", "ptr")}
  %placing.at = getelementptr i8, ptr %object, i64 %placing
  %placing.now = load ptr, ptr %placing.at
  %placing.number = ptrtoint ptr %placing.now to i64
  %placing.cell = getelementptr i64, ptr %row, i64 {Row.PLACING}
  %same.placing = call i1 @same(ptr %placing.cell, i64 %placing.number, i1 %note)
  br i1 %same.placing, label %placed, label %other
placed:
  %part.at = getelementptr i8, ptr %object, i64 %part
  %part.now = load ptr, ptr %part.at
{kept(Row.OBJECT, "object")}
{kept(Row.PART_OBJECT, "part.now")}
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
{kept(Row.PART_VERSION, "part.version")}
  %whole.impl.at = getelementptr i8, ptr %object, i64 %impl
  %whole.impl = load ptr, ptr %whole.impl.at
  %impl.cell = getelementptr i64, ptr %row, i64 {Row.IMPL}
  store ptr %whole.impl, ptr %impl.cell
  %version.at = getelementptr i8, ptr %whole.impl, i64 %version
  %version.now = load ptr, ptr %version.at
{kept(Row.VERSION, "version.now")}
  ret i32 %answer
other:
  ret i32 {Seen.OTHER}
}}

; Look at a tensor of Python's.
define internal i32 @object(ptr %fields, ptr %object, ptr %row, i1 %note) {{
entry:
{field("impl")}
{field("borrowed")}
{field("dtensor_type", "ptr")}
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
{kept(Row.OBJECT, "object")}
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
{field("grad", "ptr")}
{field("object")}
{field("dtensor_type", "ptr")}
{field("undefined", "ptr")}
  %impl.cell = getelementptr i64, ptr %row, i64 {Row.IMPL}
  %impl = load ptr, ptr %impl.cell
  %grad.row = getelementptr i64, ptr %row, i64 {WORDS}
  %tensor = call ptr %grad(ptr %impl)
{kept(Row.GRAD, "tensor")}
  %grad.impl = load ptr, ptr %tensor
  %none = icmp eq ptr %grad.impl, %undefined
  br i1 %none, label %missing, label %present
missing:
{head("absent", "i64")}
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
"""
