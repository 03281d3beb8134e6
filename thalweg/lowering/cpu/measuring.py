"""The loops of a kernel that measures: they read what a step reads, and leave sums over each chunk.

Chunks of measures have a fixed size, so sums are made over the same stretches whatever the number of threads;
elements of a stretch are added in float64, in the order that this processor's vectors give.
"""

from __future__ import annotations

from thalweg.lowering import passes
from thalweg.lowering.cpu.elements import (
    input_of,
    load_elements,
    load_scales,
    loop,
    prepare_gradient,
    real,
    row_values,
    streams,
)
from thalweg.lowering.cpu.instructions import arithmetic
from thalweg.lowering.spec import Spec
from thalweg.storage.codecs.draws import RUN


def is_in_runs(spec: Spec) -> bool:
    """Say whether something is measured that is stored in blocks."""
    record = passes.measures(spec.recipe, spec.stage, dict(spec.on), spec.scalars, spec.codecs)
    return any(passes.scale_of(name) in record.inputs for name in spec.blocks)


def over_elements(spec: Spec, end: str) -> str:
    """Return the loop over the elements of a chunk, or of one of its rows, to the label `end`."""
    names = [one.name for one in spec.measures]
    before = _sums_before(names) if spec.by_row else places(spec)
    initial = {name: f"%{name}.sum.old" if spec.by_row else "0.0" for name in names}
    return _CHUNK.format(
        before="\n".join(before),
        loop=_loop(spec, "tensor.row", "measured", initial),
        store="\n".join(f"  store double %{name}.sum.next, ptr %{name}.sum.at" for name in names),
        end=end,
    )


def over_runs(spec: Spec, end: str) -> str:
    """Return the same over runs, which are also the blocks that something is stored in."""
    moves = []
    for name, kind, shared in streams(spec):
        index = {0: "0", 1: "%r"}.get(shared, "%block")
        moves.append(f"  %{name}.base.run = getelementptr {kind}, ptr %{name}.base, i64 {index}")
    return _RUNS.format(
        run=RUN,
        before="" if spec.by_row else "\n".join([*places(spec), *zeros(spec)]),
        end=end,
        moves="\n".join(moves),
        arguments=", ".join(_arguments(spec, ".run")),
    )


def function(spec: Spec) -> str:
    """Return the function that measures a run."""
    names = [one.name for one in spec.measures]
    begin = [*_sums_before(names), *load_scales(spec)]
    return _FUNCTION.format(
        parameters=", ".join(["i64 %length", *_arguments(spec)]),
        begin="\n".join(begin),
        loop=_loop(spec, "begin", "return", {name: f"%{name}.sum.old" for name in names}),
        store="\n".join(f"  store double %{name}.sum.next, ptr %{name}.sum.at" for name in names),
    )


def places(spec: Spec) -> list[str]:
    """Return where the sums of a chunk are left, as `%name.sum.at`."""
    names = [one.name for one in spec.measures]
    return [_place(i, name, len(names)) for i, name in enumerate(names)]


def zeros(spec: Spec) -> list[str]:
    """Return how these sums begin."""
    return [f"  store double 0.0, ptr %{one.name}.sum.at" for one in spec.measures]


def _sums_before(names: list[str]) -> list[str]:
    return [f"  %{name}.sum.old = load double, ptr %{name}.sum.at" for name in names]


def _place(index: int, name: str, count: int) -> str:
    return f"""\
  %{name}.sum.chunk = mul i64 %c, {count}
  %{name}.sum.index = add i64 %{name}.sum.chunk, {index}
  %{name}.sum.at = getelementptr double, ptr %sums.all, i64 %{name}.sum.index"""


def _arguments(spec: Spec, suffix: str = "") -> list[str]:
    return [
        *(f"{real(spec)} %s.{name}" for name in spec.columns),
        *(f"ptr %{name}.base{suffix}" for name, _, _ in streams(spec)),
        *row_values(spec),
        *(f"ptr %{one.name}.sum.at" for one in spec.measures),
    ]


def _loop(spec: Spec, before: str, after: str, initial: dict[str, str]) -> str:
    record = passes.measures(spec.recipe, spec.stage, dict(spec.on), spec.scalars, spec.codecs)
    phis = [
        f"  %{name}.sum = phi double [ {value}, %{before} ], [ %{name}.sum.next, %element ]"
        for name, value in initial.items()
    ]
    sums = [line for one in spec.measures for line in add(one.name, one.squared, real(spec))]
    body = [
        *load_elements(spec),
        *prepare_gradient(spec),
        *arithmetic(record, real(spec), input_of),
        *sums,
    ]
    return loop(before, after, phis, body)


def add(name: str, squared: bool, kind: str) -> list[str]:
    """Return how `%name.new`, or its square, is added to `%name.sum`."""
    widened = f"fpext float %{name}.new to double" if kind == "float" else f"fadd double %{name}.new, -0.0"
    value = f"%{name}.square" if squared else f"%{name}.exact"
    square = [f"  %{name}.square = fmul double %{name}.exact, %{name}.exact"] if squared else []
    return [
        f"  %{name}.exact = {widened}",
        *square,
        # In any order, which is up to the width of vectors: the same for every number of threads.
        f"  %{name}.sum.next = fadd reassoc double %{name}.sum, {value}",
    ]


_CHUNK = """\
{before}
{loop}
measured:
{store}
  br label %{end}
"""

_RUNS = """\
{before}
  br label %runs

runs:
  %r = phi i64 [ 0, %tensor.row ], [ %r.next, %runs ]
  %block = udiv i64 %r, {run}
{moves}
  %rest = sub i64 %length, %r
  %this = call i64 @llvm.umin.i64(i64 %rest, i64 {run})
  call void @measured(i64 %this, {arguments})
  %r.next = add nuw nsw i64 %r, {run}
  %more = icmp ult i64 %r.next, %length
  br i1 %more, label %runs, label %{end}
"""

_FUNCTION = """
define internal void @measured({parameters}) alwaysinline {{
begin:
{begin}
{loop}
return:
{store}
  ret void
}}
"""
