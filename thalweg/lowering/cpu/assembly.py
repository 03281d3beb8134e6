"""A kernel's text: the passes of `passes.py` in a fixed skeleton of loops over tasks, chunks and elements.

Where something is rounded by random words or stored in blocks, the loop over elements is a function of a
run, which is also a block. A second function packs what is stored in blocks. Both are inlined for whole
runs, whose length is then a constant, and for the last one. The first has gone over a span of runs when
the second begins, so that the processor need not wait for the largest element of each block.
"""

from __future__ import annotations

from itertools import starmap

from thalweg.lowering import passes
from thalweg.lowering.cpu import measuring, rows
from thalweg.lowering.cpu.elements import (
    PARALLEL,
    input_of,
    kind_of_scale,
    load_bases,
    load_elements,
    load_row,
    load_scales,
    loop,
    prepare_gradient,
    real,
    row_values,
    streams,
)
from thalweg.lowering.cpu.instructions import (
    BYTES,
    DECLARATIONS,
    LANES,
    TYPES,
    arithmetic,
    cut_to_stored,
    to_stored,
)
from thalweg.lowering.spec import Spec
from thalweg.storage.codecs import BLOCK, BlockCodec, HalfCodec
from thalweg.storage.codecs.draws import RUN, distance, numbers
from thalweg.storage.codecs.plain import dtype_name

SPAN = 4 * RUN
"""Elements between the passes: what the slots hold of them stays in the processor's nearest cache."""

AHEAD = 6 * RUN
"""Elements from what the second pass packs to what it asks memory for. It reads none itself, and what the
processor fetches of its own accord does not reach over the pause."""

_LINE = 64  # bytes that memory gives at once

ROWS_AHEAD, LINES_AHEAD = 8, 4
"""Chunks from the one that is stepped to the one that memory is asked for, and how many lines of each stream.
Rows of a table that a sparse gradient names are chunks, and lie where no processor expects them."""


def assembly(spec: Spec) -> str:
    """Return the kernel of `spec` as LLVM assembly."""
    text = _STEP.format(
        rule=spec.recipe.name,
        declarations=DECLARATIONS,
        real=real(spec),
        columns=len(spec.columns),
        fields=6 if spec.in_parts else 5 if spec.by_row else 4,
        of="chunk." if spec.by_row else "",
        tensor="tensor.rows" if spec.by_row else "tensor.row",
        buffers="\n".join(_buffers(spec)),
        row="\n".join(load_row(spec)),
        elements=_chunk(spec),
        rows_ahead=ROWS_AHEAD,
        ahead="\n".join(_chunk_ahead(spec)),
    )
    if spec.by_row:
        text += rows.mean_function(spec)
    if spec.stage:
        return text + (measuring.function(spec) if measuring.is_in_runs(spec) else "") + _METADATA
    if spec.draws:
        text += _first_function(spec)
    if spec.blocks:
        text += _second_function(spec)
    return text + _METADATA


def _chunk_ahead(spec: Spec) -> list[str]:
    """Return how memory is asked for what a later chunk begins with; rows of gradients are neighbours."""
    lines = []
    for i, (name, kind, shared) in enumerate(streams(spec)):
        if name == "g" or shared != 1:
            continue
        lines += [
            f"  %{name}.later.index = mul i64 %tensors, {i}",
            f"  %{name}.later.tensor = add i64 %{name}.later.index, %later.tensor",
            f"  %{name}.later.cell = getelementptr ptr, ptr %addresses, i64 %{name}.later.tensor",
            f"  %{name}.later.start = load ptr, ptr %{name}.later.cell",
            f"  %{name}.later = getelementptr {kind}, ptr %{name}.later.start, i64 %later.offset",
        ]
        for line in range(LINES_AHEAD):
            lines += [
                f"  %{name}.later.{line} = getelementptr i8, ptr %{name}.later, i64 {line * _LINE}",
                f"  call void @llvm.prefetch.p0(ptr %{name}.later.{line}, i32 0, i32 3, i32 1)",
            ]
    return lines


def _chunk(spec: Spec) -> str:
    """Return the loops over a chunk."""
    if spec.by_row:
        return rows.over_rows(spec, _elements(spec, rows.END))
    return "\n".join([*load_bases(spec), _elements(spec, "finish")])


def _elements(spec: Spec, end: str) -> str:
    if spec.stage:
        over = measuring.over_runs if measuring.is_in_runs(spec) else measuring.over_elements
        return over(spec, end)
    return _loops_over_runs(spec, end) if spec.draws else _loop(spec, "tensor.row", end)


def _ranks(spec: Spec) -> list[str]:
    """Return the names of all ranks, of which a block's anchors need the largest."""
    return [rank for name, codec in spec.blocks.items() for rank in passes.ranks_of(name, codec)]


def _buffers(spec: Spec) -> list[str]:
    return [
        *(f"  %{name}.buffers = alloca [{SPAN} x float], align 64" for name in spec.blocks),
        *(f"  %{rank}.mosts = alloca [{SPAN // BLOCK} x i32], align 64" for rank in _ranks(spec)),
    ]


def _loop(spec: Spec, before: str, after: str) -> str:
    """Return the loop of the first pass over %length elements."""
    phis, next_ = [], []
    for number, size in _words(spec, in_blocks=False).items():
        phis.append(_word_phi(number, before, "element"))
        next_.append(_next_word(number, size))
    for rank in _ranks(spec):
        phis.append(f"  %{rank}.most = phi i32 [ 0, %{before} ], [ %{rank}.most.next, %element ]")
        operands = f"i32 %{rank}.most, i32 %{rank}.rank.new"
        next_.append(f"  %{rank}.most.next = call i32 @llvm.smax.i32({operands})")
    record = passes.element(spec.recipe, dict(spec.on), spec.scalars, spec.codecs)
    body = [
        *load_elements(spec),
        *prepare_gradient(spec),
        *arithmetic(record, real(spec), input_of),
        *_store_elements(spec),
        *next_,
    ]
    return loop(before, after, phis, body)


def _words(spec: Spec, in_blocks: bool) -> dict[int, int]:
    """Return by number the size of the words that the first pass (not in blocks) or the second rounds by."""
    found = ((number, spec.codecs[name]) for name, number in numbers(spec.codecs).items())
    return {number: codec.drawn for number, codec in found if isinstance(codec, BlockCodec) == in_blocks}


def _word_phi(number: int, before: str, loop: str) -> str:
    word = f"%word.{number}"
    return f"  {word} = phi i32 [ {word}.first, %{before} ], [ {word}.next, %{loop} ]"


def _next_word(number: int, size: int) -> str:
    return f"  %word.{number}.next = add i32 %word.{number}, {distance(number, size)}"


def _store_elements(spec: Spec) -> list[str]:
    lines = []
    for name, codec in spec.codecs.items():
        if name in spec.by_row:
            continue
        if isinstance(codec, BlockCodec):
            lines += [
                f"  %{name}.buffer.at = getelementptr float, ptr %{name}.buffer, i64 %i",
                f"  store float %{name}.new, ptr %{name}.buffer.at, {PARALLEL}",
            ]
            continue
        store = cut_to_stored if isinstance(codec, HalfCodec) else to_stored
        lines += store(f"%{name}.new", f"%{name}.out", codec, real(spec))
        lines.append(f"  store {TYPES[codec.name]} %{name}.out, ptr %{name}.at, {PARALLEL}")
        if isinstance(codec, HalfCodec) and codec.side is not None:
            kind = TYPES[dtype_name(codec.side)]
            lines += [
                f"  %{name}.side.out = trunc i32 %{name}.side.new to {kind}",
                f"  store {kind} %{name}.side.out, ptr %{name}.side.at, {PARALLEL}",
            ]
    return lines


def _arguments(spec: Spec, suffix: str = "") -> list[str]:
    """Return, with their types, what the passes take of a run beside its length."""
    return [
        "i32 %key",
        f"i32 %start{suffix}",
        *(["i32 %lane"] if spec.in_parts else []),
        *(f"{real(spec)} %s.{name}" for name in spec.columns),
        *(f"ptr %{name}.base{suffix}" for name, _, _ in streams(spec)),
        *(f"ptr %{name}.buffer{suffix}" for name in spec.blocks),
        *(f"ptr %{rank}.most.at{suffix}" for rank in _ranks(spec)),
        *row_values(spec),
    ]


def _loops_over_runs(spec: Spec, end: str) -> str:
    passes_ = ["first", "second"] if spec.blocks else ["first"]
    ends = [*(f"begin.{name}" for name in passes_[1:]), "spans.end"]
    loops = [_loop_over_runs(spec, name, end) for name, end in zip(passes_, ends, strict=True)]
    place = _PLACE_IN_WHOLE if spec.in_parts else ""
    return _SPANS.format(span=SPAN, place=place, loops="\n".join(loops), end=end)


def _loop_over_runs(spec: Spec, pass_: str, after: str) -> str:
    """Return the loop that calls the function `pass_` for each run of a span."""
    moves = []
    for name, kind, shared in streams(spec):
        index = {0: "0", 1: f"%at.{pass_}"}.get(shared, f"%block.at.{pass_}")
        moves.append(f"  %{name}.base.{pass_} = getelementptr {kind}, ptr %{name}.base, i64 {index}")
    moves += [
        *(
            f"  %{name}.buffer.{pass_} = getelementptr float, ptr %{name}.buffers, i64 %r.{pass_}"
            for name in spec.blocks
        ),
        *(
            f"  %{rank}.most.at.{pass_} = getelementptr i32, ptr %{rank}.mosts, i64 %block.{pass_}"
            for rank in _ranks(spec)
        ),
    ]
    arguments = ", ".join(_arguments(spec, f".{pass_}"))
    place = "%place" if spec.in_parts else "%offset"
    return _RUNS.format(
        name=pass_, run=RUN, place=place, moves="\n".join(moves), arguments=arguments, after=after
    )


def _first_function(spec: Spec) -> str:
    begin = [*_first_words(spec), *load_scales(spec)]
    mosts = [f"  store i32 %{rank}.most.next, ptr %{rank}.most.at" for rank in _ranks(spec)]
    return _FIRST.format(
        parameters=", ".join(["i64 %length", *_arguments(spec)]),
        begin="\n".join(begin),
        elements=_loop(spec, "begin", "return"),
        end="\n".join([*mosts, *rows.stores(spec)]),
    )


def _first_words(spec: Spec) -> list[str]:
    return arithmetic(
        passes.words(spec.codecs, spec.in_parts), "float", "%{}".format, prefix="w", suffix="first"
    )


def _second_function(spec: Spec) -> str:
    words = _words(spec, in_blocks=True)
    begin = [*_prefetches(spec), *_first_words(spec)]
    for name, codec in spec.blocks.items():
        begin += _store_anchor(name, codec)
    return _SECOND.format(
        parameters=", ".join(["i64 %length", *_arguments(spec)]),
        begin="\n".join(begin),
        words="\n".join(_word_phi(number, "begin", "pack") for number in words),
        elements="\n".join([*_pack_elements(spec), *starmap(_next_word, words.items())]),
    )


def _prefetches(spec: Spec) -> list[str]:
    lines = []
    for name, kind, shared in streams(spec):
        bytes_of_run = RUN * BYTES[kind] if shared == 1 else 0
        for line in range(0, bytes_of_run, _LINE):
            at = AHEAD * BYTES[kind] + line
            lines += [
                f"  %{name}.ahead.{line} = getelementptr i8, ptr %{name}.base, i64 {at}",
                f"  call void @llvm.prefetch.p0(ptr %{name}.ahead.{line}, i32 0, i32 3, i32 1)",
            ]
    return lines


def _store_anchor(name: str, codec: BlockCodec) -> list[str]:
    record, kind = passes.new_anchor(name, codec), kind_of_scale(codec)
    lanes = f"<{LANES} x i32>"
    lines = []
    for rank in passes.ranks_of(name, codec):
        # In a vector: LLVM makes branches of a number's minima and maxima, and guesses wrongly.
        lines += [
            f"  %{rank}.most = load i32, ptr %{rank}.most.at",
            f"  %{rank}.lane = insertelement {lanes} poison, i32 %{rank}.most, i64 0",
            f'  %{rank}.largest = call {lanes} asm "", "=x,0"({lanes} %{rank}.lane)',
        ]
    return [
        *lines,
        *arithmetic(record, "float", "%{}".format, prefix=f"{name}.n", suffix="lane", lanes=LANES),
        *(
            f"  %{name}.{one}.made = extractelement {lanes} %{name}.{one}.lane, i64 0"
            for one in ("anchor", "scale")
        ),
        # Opaque, or else LLVM finds a sum in it and adds a part of that to every element.
        f'  %{name}.anchor.packed = call i32 asm "", "=r,0"(i32 %{name}.anchor.made)',
        f"  %{name}.scale.out = trunc i32 %{name}.scale.made to {kind}",
        f"  store {kind} %{name}.scale.out, ptr %{name}.side.base",
    ]


def _pack_elements(spec: Spec) -> list[str]:
    lines = []
    for name in spec.blocks:
        lines += [
            f"  %{name}.packed.from = getelementptr float, ptr %{name}.buffer, i64 %j",
            f"  %{name}.packed = load float, ptr %{name}.packed.from, {PARALLEL}",
        ]
    lines += arithmetic(passes.pack(spec.codecs), "float", _packed_input, prefix="k", suffix="out")
    for name in spec.blocks:
        lines += [
            f"  %{name}.code.byte = trunc i32 %{name}.code.out to i8",
            f"  %{name}.code.at = getelementptr i8, ptr %{name}.base, i64 %j",
            f"  store i8 %{name}.code.byte, ptr %{name}.code.at, {PARALLEL}",
        ]
    return lines


def _packed_input(name: str) -> str:
    return f"%{name}" if name.startswith("word.") else f"%{name}.packed"


_PLACE_IN_WHOLE = """\
  %place.at = getelementptr i64, ptr %fields, i64 4
  %place = load i64, ptr %place.at
  %lane.at = getelementptr i64, ptr %fields, i64 5
  %lane.whole = load i64, ptr %lane.at
  %lane = trunc i64 %lane.whole to i32
"""

_SPANS = """\
  %key.at = getelementptr i32, ptr %keys, i64 %tensor
  %key = load i32, ptr %key.at
{place}  br label %spans

spans:
  %s = phi i64 [ 0, %tensor.row ], [ %s.next, %spans.end ]
  %s.left = sub i64 %length, %s
  %span = call i64 @llvm.umin.i64(i64 %s.left, i64 {span})
  br label %begin.first
{loops}
spans.end:
  %s.next = add nuw nsw i64 %s, {span}
  %more.spans = icmp ult i64 %s.next, %length
  br i1 %more.spans, label %spans, label %{end}
"""

_RUNS = """
begin.{name}:
  br label %runs.{name}

runs.{name}:
  %r.{name} = phi i64 [ 0, %begin.{name} ], [ %r.next.{name}, %whole.{name} ]
  %at.{name} = add i64 %s, %r.{name}
  %block.{name} = udiv i64 %r.{name}, {run}
  %block.at.{name} = udiv i64 %at.{name}, {run}
  %index.{name} = add i64 {place}, %at.{name}
  %start.{name} = trunc i64 %index.{name} to i32
{moves}
  %rest.{name} = sub i64 %span, %r.{name}
  %is.whole.{name} = icmp uge i64 %rest.{name}, {run}
  br i1 %is.whole.{name}, label %whole.{name}, label %last.{name}

whole.{name}:
  call void @{name}(i64 {run}, {arguments})
  %r.next.{name} = add nuw nsw i64 %r.{name}, {run}
  %more.{name} = icmp ult i64 %r.next.{name}, %span
  br i1 %more.{name}, label %runs.{name}, label %{after}

last.{name}:
  call void @{name}(i64 %rest.{name}, {arguments})
  br label %{after}
"""

_FIRST = """
define internal void @first({parameters}) alwaysinline {{
begin:
{begin}
{elements}
return:
{end}
  ret void
}}
"""

# Sixteen codes at a time fill the registers that they are narrowed in.
_SECOND = """
define internal void @second({parameters}) alwaysinline {{
begin:
{begin}
  br label %pack

pack:
  %j = phi i64 [ 0, %begin ], [ %j.next, %pack ]
{words}
{elements}
  %j.next = add nuw nsw i64 %j, 1
  %packed = icmp eq i64 %j.next, %length
  br i1 %packed, label %return, label %pack, !llvm.loop !4

return:
  ret void
}}
"""

_STEP = """\
; {rule}
{declarations}
define void @step(ptr %descriptor) {{
entry:
{buffers}
  %tasks.count.at = getelementptr i64, ptr %descriptor, i64 1
  %tasks.count = load i64, ptr %tasks.count.at
  %tasks.at = getelementptr i64, ptr %descriptor, i64 2
  %tasks = load ptr, ptr %tasks.at
  %chunks.at = getelementptr i64, ptr %descriptor, i64 3
  %chunks = load ptr, ptr %chunks.at
  %addresses.at = getelementptr i64, ptr %descriptor, i64 4
  %addresses = load ptr, ptr %addresses.at
  %tensors.at = getelementptr i64, ptr %descriptor, i64 5
  %tensors = load i64, ptr %tensors.at
  %rows.at = getelementptr i64, ptr %descriptor, i64 6
  %rows = load ptr, ptr %rows.at
  %row.of.at = getelementptr i64, ptr %descriptor, i64 7
  %row.of = load ptr, ptr %row.of.at
  %keys.at = getelementptr i64, ptr %descriptor, i64 8
  %keys = load ptr, ptr %keys.at
  %sums.at = getelementptr i64, ptr %descriptor, i64 9
  %sums.all = load ptr, ptr %sums.at
  br label %claim

claim:
  %task = atomicrmw add ptr %descriptor, i64 1 monotonic
  %left = icmp slt i64 %task, %tasks.count
  br i1 %left, label %begin, label %done

begin:
  %first.at = getelementptr i64, ptr %tasks, i64 %task
  %first = load i64, ptr %first.at
  %last.at = getelementptr i64, ptr %first.at, i64 1
  %last.chunk = load i64, ptr %last.at
  br label %chunk

chunk:
  %c = phi i64 [ %first, %begin ], [ %c.next, %finish ]
  %c.later = add nuw nsw i64 %c, {rows_ahead}
  %c.last = sub i64 %last.chunk, 1
  %c.ahead = call i64 @llvm.umin.i64(i64 %c.later, i64 %c.last)
  %later = getelementptr [{fields} x i64], ptr %chunks, i64 %c.ahead
  %later.tensor = load i64, ptr %later
  %later.offset.at = getelementptr i64, ptr %later, i64 1
  %later.offset = load i64, ptr %later.offset.at
{ahead}
  %fields = getelementptr [{fields} x i64], ptr %chunks, i64 %c
  %tensor = load i64, ptr %fields
  %offset.at = getelementptr i64, ptr %fields, i64 1
  %{of}offset = load i64, ptr %offset.at
  %offset.g.at = getelementptr i64, ptr %fields, i64 2
  %{of}offset.g = load i64, ptr %offset.g.at
  %length.at = getelementptr i64, ptr %fields, i64 3
  %{of}length = load i64, ptr %length.at
  %grad.cell.index = add i64 %tensors, %tensor
  %grad.cell = getelementptr i64, ptr %addresses, i64 %grad.cell.index
  %grad.number = load i64, ptr %grad.cell
  %is.absent = icmp eq i64 %grad.number, 0
  br i1 %is.absent, label %finish, label %{tensor}

{tensor}:
  %row.index.at = getelementptr i64, ptr %row.of, i64 %tensor
  %row.index = load i64, ptr %row.index.at
  %row = getelementptr [{columns} x {real}], ptr %rows, i64 %row.index
{row}
{elements}
finish:
  %c.next = add nuw nsw i64 %c, 1
  %chunks.left = icmp slt i64 %c.next, %last.chunk
  br i1 %chunks.left, label %chunk, label %claim

done:
  ret void
}}
"""

_METADATA = """
!0 = distinct !{}
!1 = distinct !{!1, !2, !3}
!2 = !{!"llvm.loop.parallel_accesses", !0}
!3 = !{!"llvm.loop.vectorize.enable", i1 true}
!4 = distinct !{!4, !2, !3, !5}
!5 = !{!"llvm.loop.vectorize.width", i32 16}
"""
