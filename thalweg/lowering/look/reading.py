"""What the compiled walk is told in LLVM's language, to read and write the words of its tables."""

from __future__ import annotations

from thalweg.lowering.look import fields
from thalweg.lowering.look.tables import HEAD, Row

FUNCTIONS = ("PyDict_Next", "PyDict_GetItem", "PyList_Size", "PyList_GetItem")
"""Functions of CPython's that the walk calls."""


def head(name: str, kind: str = "ptr") -> str:
    """Return the lines that read a word of the head, the table of tables (`HEAD`)."""
    return f"""\
  %{name}.at = getelementptr i64, ptr %head, i64 {HEAD.index(name)}
  %{name} = load {kind}, ptr %{name}.at"""


def field(name: str, kind: str = "i64") -> str:
    """Return the lines that read where libtorch keeps something (`fields.NAMES`)."""
    return f"""\
  %field.{name}.at = getelementptr i64, ptr %fields, i64 {fields.NAMES.index(name)}
  %{name} = load {kind}, ptr %field.{name}.at"""


def function(name: str) -> str:
    """Return the lines that read the address of a function."""
    return f"""\
  %function.{name}.at = getelementptr ptr, ptr %functions, i64 {FUNCTIONS.index(name)}
  %{name} = load ptr, ptr %function.{name}.at"""


def kept(word: Row, value: str) -> str:
    """Return the lines that write a pointer into a word of a row."""
    return f"""\
  %kept.{word.name}.at = getelementptr ptr, ptr %row, i64 {word.value}
  store ptr %{value}, ptr %kept.{word.name}.at"""
