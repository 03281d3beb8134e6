"""How a kernel comes to an element, for steps and measures: rows, places in memory, decoding, gradient."""

from __future__ import annotations

from thalweg.lowering import passes
from thalweg.lowering.cpu.instructions import TYPES, from_stored, to_stored
from thalweg.lowering.spec import Spec
from thalweg.lowering.trace import Trace
from thalweg.storage.codecs import BlockCodec
from thalweg.storage.codecs.plain import dtype_name

# The access group promises the vectorizer that elements do not depend on each other, which spares it
# a check of all pairs of streams before every chunk.
PARALLEL = "!llvm.access.group !0"


def real(spec: Spec) -> str:
    """Return LLVM's type of the numbers that are computed with."""
    return TYPES[dtype_name(spec.compute)]


def streams(spec: Spec) -> list[tuple[str, str, int]]:
    """Return name, LLVM's type and how many elements share one, in the order of the table of addresses."""
    return [(name, TYPES[stored], shared) for name, stored, shared in spec.streams]


def load_row(spec: Spec) -> list[str]:
    """Return how a tensor's scalars are loaded, as `%s.name`."""
    return [
        line
        for i, name in enumerate(spec.columns)
        for line in (
            f"  %s.{name}.at = getelementptr {real(spec)}, ptr %row, i64 {i}",
            f"  %s.{name} = load {real(spec)}, ptr %s.{name}.at",
        )
    ]


def load_bases(spec: Spec) -> list[str]:
    """Return how it is found where a chunk begins in each stream, `%name.base`."""
    lines = []
    for i, (name, kind, shared) in enumerate(streams(spec)):
        offset = "%offset.g" if name == "g" else "%offset"
        lines += [
            f"  %{name}.cell.index = mul i64 %tensors, {i}",
            f"  %{name}.cell.tensor = add i64 %{name}.cell.index, %tensor",
            f"  %{name}.cell = getelementptr ptr, ptr %addresses, i64 %{name}.cell.tensor",
            f"  %{name}.start = load ptr, ptr %{name}.cell",
            f"  %{name}.offset = udiv i64 {offset}, {shared or '%length'}",
            f"  %{name}.base = getelementptr {kind}, ptr %{name}.start, i64 %{name}.offset",
        ]
    return lines


def squares(spec: Spec) -> Trace | None:
    """Return the trace of an element's square, if something is kept by row that is made of its mean."""
    if not spec.by_row:
        return None
    record = passes.squares(spec.recipe, dict(spec.on), spec.scalars, spec.codecs)
    in_blocks = record is not None and any(passes.scale_of(name) in record.inputs for name in spec.blocks)
    assert not in_blocks, "no gradient is made of what is stored in blocks"
    return record


def row_values(spec: Spec) -> list[str]:
    """Return, with their types, what the elements of a row have in common, if something is kept by row."""
    names = [f"%{name}.in" for name in spec.by_row]
    return [f"{real(spec)} {name}" for name in (*names, *(["%row.mean"] if squares(spec) else []))]


def load_scales(spec: Spec) -> list[str]:
    """Return how a run's scale of what is stored in blocks is loaded, as `%name.scale`."""
    lines = []
    for name, codec in spec.blocks.items():
        kind = kind_of_scale(codec)
        lines += [
            f"  %{name}.scale.raw = load {kind}, ptr %{name}.side.base",
            f"  %{name}.scale = zext {kind} %{name}.scale.raw to i32",
        ]
    return lines


def kind_of_scale(codec: BlockCodec) -> str:
    """Return LLVM's type of a scale."""
    assert codec.side is not None, "blocks have scales"
    return TYPES[dtype_name(codec.side)]


def input_of(name: str) -> str:
    """Return the value of an input of the first pass's trace."""
    if name == "g":
        return "%g.used"
    return f"%{name}" if "." in name else f"%{name}.in"


def load_elements(spec: Spec) -> list[str]:
    """Return how the elements at `%i` are loaded: numbers as `%name.in`, codes as `%name.code`.

    What is kept by row has been loaded before.
    """
    lines = []
    for name, codec in spec.stored.items():
        if name in spec.by_row:
            continue
        kind = TYPES[codec.name]
        lines += [
            f"  %{name}.at = getelementptr {kind}, ptr %{name}.base, i64 %i",
            f"  %{name}.raw = load {kind}, ptr %{name}.at, {PARALLEL}",
        ]
        if isinstance(codec, BlockCodec):
            extend = "sext" if codec.signed else "zext"
            lines.append(f"  %{name}.code = {extend} i8 %{name}.raw to i32")
            continue
        lines += from_stored(f"%{name}.raw", f"%{name}.in", codec, real(spec))
        if codec.side is not None:
            kind = TYPES[dtype_name(codec.side)]
            lines += [
                f"  %{name}.side.at = getelementptr {kind}, ptr %{name}.side.base, i64 %i",
                f"  %{name}.side.raw = load {kind}, ptr %{name}.side.at, {PARALLEL}",
                f"  %{name}.side = sext {kind} %{name}.side.raw to i32",
            ]
    return lines


def prepare_gradient(spec: Spec) -> list[str]:
    """Return how the rule's gradient `%g.used` comes from `%g.in`. A step writes back what it unscales."""
    lines, g = [], "%g.in"
    if spec.unscale:
        lines.append(f"  %g.unscaled = fmul {real(spec)} {g}, %s.unscale")
        g = "%g.unscaled"
    if spec.unscale and not spec.stage:
        lines += to_stored("%g.unscaled", "%g.out", spec.g, real(spec))
        lines.append(f"  store {TYPES[spec.g.name]} %g.out, ptr %g.at, {PARALLEL}")
    sign = "fneg" if spec.maximize else "bitcast"
    lines.append(f"  %g.used = {sign} {real(spec)} {g}" + ("" if spec.maximize else f" to {real(spec)}"))
    return lines


def loop(before: str, after: str, phis: list[str], body: list[str]) -> str:
    """Return a loop over `%length` elements at `%i`, from the label `before` to `after`."""
    return _LOOP.format(before=before, after=after, phis="\n".join(phis), body="\n".join(body))


_LOOP = """\
  br label %element

element:
  %i = phi i64 [ 0, %{before} ], [ %i.next, %element ]
{phis}
{body}
  %i.next = add nuw nsw i64 %i, 1
  %end = icmp eq i64 %i.next, %length
  br i1 %end, label %{after}, label %element, !llvm.loop !1
"""
