"""How the walk looks at libtorch's tensors: kind, shape and place, each noted or compared."""

from __future__ import annotations

from thalweg.lowering.look import ahead, fields
from thalweg.lowering.look.reading import field, kept
from thalweg.lowering.look.tables import MOST_DIMS, WORDS, Row, Seen

_LINE = 64
_LOOKED_AT = (
    *((word, 0) for word in (Row.OBJECT, Row.PART_OBJECT, Row.STORAGE)),
    *((word, _LINE * i) for word in (Row.IMPL, Row.PART) for i in range(3)),
    *((Row.GRAD, offset) for offset in (0, -_LINE)),
)

LLVM = f"""\
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
{field("sizes")}
{field("meta_mask")}
{field("storage")}
{field("data")}
{field("deleter")}
{field("cow_deleter")}
{field("version")}
{field("item_sizes", "ptr")}
  %impl.cell = getelementptr i64, ptr %row, i64 {Row.IMPL}
  store ptr %impl, ptr %impl.cell
  %later = getelementptr i64, ptr %row, i64 {ahead.ROWS * WORDS}
{ahead.fetched("%later", _LOOKED_AT)}
  %version.at = getelementptr i8, ptr %impl, i64 %version
  %version.now = load ptr, ptr %version.at
{kept(Row.VERSION, "version.now")}
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
{kept(Row.STORAGE, "storage.now")}
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
"""
