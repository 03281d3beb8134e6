"""The CPU's rows: counters advance and the scalars of a step are worked out, in one compiled loop.

As a rule's maths for an element is traced, so is what it does with hyperparameters and counters, in float64.
Neighbours of one group with the same counters share a row: in an ordinary step there is one for each group.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from thalweg.lowering import passes
from thalweg.lowering.cpu.instructions import DECLARATIONS, TYPES, arithmetic, words
from thalweg.rule import Recipe
from thalweg.storage.codecs.plain import dtype_name

WORDS = (
    "members",
    "addresses",  # int64 (streams, members); counters' addresses begin at the row `counters`
    "counters",
    "groups",  # int64 (members,)
    "hypers",  # float64 (groups, columns of the rule)
    "firsts",  # int32, whether a parameter's state is new; cleared
    "positions",  # int64 (members,), a member's place there
    "rows",  # (members, columns) of the kernel's real type; overwritten
    "row_of",  # int64 (members,); overwritten
    "unscale",  # float64, the last column where gradients carry a scale
    "measures",  # float64 (members, measures of the recipe)
    "keeps",  # whether counters and `firsts` stay as they are, for rows that are only looked at
)
"""What the compiled function takes: a table of numbers and of addresses of such arrays."""


class Kind(NamedTuple):
    """What the code depends on beside the rule and its flags.

    Args:
        real: the dtype of a row.
        counter: the dtype of counters.
        unscale: whether a row ends with what gradients are multiplied by.
    """

    real: torch.dtype
    counter: torch.dtype
    unscale: bool


def assembly(recipe: Recipe, choices: Mapping[str, bool], kind: Kind) -> str:
    """Return the function `rows` as LLVM assembly."""
    real, counter = TYPES[dtype_name(kind.real)], TYPES[dtype_name(kind.counter)]
    advance, scalars = passes.counters(recipe, choices), passes.scalars(recipe, choices)
    names = [c.name for c in recipe.counters]
    so_far = [f"{c}.so.far" for c in names]
    columns = [f"%{name}.column" for name in scalars.outputs] + ["%unscale"] * kind.unscale
    return _TEXT.format(
        rule=recipe.name,
        declarations=DECLARATIONS,
        words=words(WORDS, numbers="members counters keeps", reals="unscale"),
        kept="\n".join(f"  %{c}.kept = alloca double\n  %{c}.after = alloca {counter}" for c in names),
        load="\n".join(_load(i, c, counter) for i, c in enumerate(names)),
        same="\n".join(_same(c, before) for c, before in zip(names, ["same.both", *so_far], strict=False)),
        all=f"%{['same.both', *so_far][-1]}",
        keep="\n".join(f"  store double %{c}, ptr %{c}.kept" for c in names),
        hypers="\n".join(_hyper(i, name) for i, name in enumerate(recipe.columns)),
        measures="\n".join(_measure(i, one.name) for i, one in enumerate(recipe.measures)),
        measures_of_recipe=len(recipe.measures),
        shared="true" if recipe.shares_rows else "false",
        columns_of_rule=len(recipe.columns),
        advance="\n".join(arithmetic(advance, "double", _counter_before, prefix="a", suffix="new")),
        round="\n".join(_round(c, counter) for c in names),
        scalars="\n".join(arithmetic(scalars, "double", _counter_after, prefix="b", suffix="column")),
        columns=max(len(columns), 1),
        real=real,
        store="\n".join(_store(i, value, real) for i, value in enumerate(columns)),
        write="\n".join(_write(c, counter) for c in names),
    )


def _load(index: int, name: str, counter: str) -> str:
    widened = (
        f"fpext {counter} %{name}.raw to double" if counter != "double" else f"fadd double %{name}.raw, -0.0"
    )
    return f"""\
  %{name}.stream = add i64 %counters, {index}
  %{name}.begin = mul i64 %{name}.stream, %members
  %{name}.cell.index = add i64 %{name}.begin, %t
  %{name}.cell = getelementptr i64, ptr %addresses, i64 %{name}.cell.index
  %{name}.place = load ptr, ptr %{name}.cell
  %{name}.raw = load {counter}, ptr %{name}.place
  %{name} = {widened}"""


def _same(name: str, before: str) -> str:
    return f"""\
  %{name}.then = load double, ptr %{name}.kept
  %{name}.equal = fcmp oeq double %{name}, %{name}.then
  %{name}.so.far = and i1 %{name}.equal, %{before}"""


def _hyper(index: int, name: str) -> str:
    return f"""\
  %h.{name}.at = getelementptr double, ptr %h, i64 {index}
  %h.{name} = load double, ptr %h.{name}.at"""


def _measure(index: int, name: str) -> str:
    return f"""\
  %m.{name}.at = getelementptr double, ptr %m, i64 {index}
  %m.{name} = load double, ptr %m.{name}.at"""


def _counter_before(name: str) -> str:
    return f"%{name}"


def _counter_after(name: str) -> str:
    return f"%{name}" if name.startswith(("h.", "m.")) or name == "first" else f"%{name}.exact"


def _round(name: str, counter: str) -> str:
    narrow = (
        f"  %{name}.stored = fptrunc double %{name}.new to {counter}\n"
        f"  %{name}.exact = fpext {counter} %{name}.stored to double"
    )
    wide = (
        f"  %{name}.stored = bitcast double %{name}.new to double\n"
        f"  %{name}.exact = bitcast double %{name}.new to double"
    )
    store = f"  store {counter} %{name}.stored, ptr %{name}.after"
    return "\n".join([wide if counter == "double" else narrow, store])


def _store(index: int, value: str, real: str) -> str:
    convert = f"fptrunc double {value} to {real}" if real != "double" else f"bitcast double {value} to double"
    return f"""\
  %column.{index} = {convert}
  %column.{index}.at = getelementptr {real}, ptr %row, i64 {index}
  store {real} %column.{index}, ptr %column.{index}.at"""


def _write(name: str, counter: str) -> str:
    return f"""\
  %{name}.value = load {counter}, ptr %{name}.after
  store {counter} %{name}.value, ptr %{name}.place"""


_TEXT = """\
; {rule}
{declarations}
define void @rows(ptr %table) {{
entry:
{kept}
{words}
  br label %member

member:
  %t = phi i64 [ 0, %entry ], [ %t.next, %next ]
  %made = phi i64 [ 0, %entry ], [ %made.now, %next ]
  %last.group = phi i64 [ -1, %entry ], [ %group.now, %next ]
  %last.first = phi i1 [ false, %entry ], [ %first.now, %next ]
  %more = icmp slt i64 %t, %members
  br i1 %more, label %look, label %done

look:
  %grad.index = add i64 %members, %t
  %grad.cell = getelementptr i64, ptr %addresses, i64 %grad.index
  %grad = load i64, ptr %grad.cell
  %is.absent = icmp eq i64 %grad, 0
  br i1 %is.absent, label %next, label %present

present:
  %group.cell = getelementptr i64, ptr %groups, i64 %t
  %group = load i64, ptr %group.cell
  %position.cell = getelementptr i64, ptr %positions, i64 %t
  %position = load i64, ptr %position.cell
  %first.cell = getelementptr i32, ptr %firsts, i64 %position
  %first.flag = load i32, ptr %first.cell
  %first = icmp ne i32 %first.flag, 0
{load}
  %same.group = icmp eq i64 %group, %last.group
  %same.first = icmp eq i1 %first, %last.first
  %same.two = and i1 %same.group, %same.first
  %same.both = and i1 %same.two, {shared}
{same}
  br i1 {all}, label %write, label %make

make:
{keep}
  %h.begin = mul i64 %group, {columns_of_rule}
  %h = getelementptr double, ptr %hypers, i64 %h.begin
{hypers}
  %m.begin = mul i64 %t, {measures_of_recipe}
  %m = getelementptr double, ptr %measures, i64 %m.begin
{measures}
{advance}
{round}
{scalars}
  %row = getelementptr [{columns} x {real}], ptr %rows, i64 %made
{store}
  %made.next = add nuw i64 %made, 1
  br label %write

write:
  %made.all = phi i64 [ %made, %present ], [ %made.next, %make ]
  %is.kept = icmp ne i64 %keeps, 0
  br i1 %is.kept, label %placed, label %commit

commit:
{write}
  store i32 0, ptr %first.cell
  br label %placed

placed:
  %row.index = sub i64 %made.all, 1
  %row.of.cell = getelementptr i64, ptr %row_of, i64 %t
  store i64 %row.index, ptr %row.of.cell
  br label %next

next:
  %made.now = phi i64 [ %made, %look ], [ %made.all, %placed ]
  %group.now = phi i64 [ %last.group, %look ], [ %group, %placed ]
  %first.now = phi i1 [ %last.first, %look ], [ %first, %placed ]
  %t.next = add nuw nsw i64 %t, 1
  br label %member

done:
  ret void
}}
"""
