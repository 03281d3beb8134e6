"""Memory that will be read soon, asked for ahead of time: what LLVM is told for that.

A look goes from Python's tensor to libtorch's and on to its storage, for thousands of tensors. What other
work has driven from the caches since the last step would be waited for pointer after pointer. The rows of
the walk (`walk.py`) note where all of it lay, so it can be asked for at once, a few rows before it is read.
An address that is none any more does no harm: a processor ignores what it cannot fetch.
"""

from __future__ import annotations

from collections.abc import Sequence

ROWS = 6
"""How many rows ahead the walk asks."""

STEPPED = 12
"""How many stepped parameters ahead: less is done for each of them."""

DECLARED = "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)\n"


def fetched(row: str, places: Sequence[tuple[int, int]]) -> str:
    """Return the lines that ask for memory whose addresses are words of a row.

    Args:
        row: the pointer to the row, as LLVM knows it (`%row`). Names of the lines begin with it.
        places: the index of a word, and how many bytes beyond the address in it.
    """
    lines = []
    for i, (word, offset) in enumerate(places):
        name = f"{row}.fetched.{i}"
        lines += [
            f"  {name}.cell = getelementptr ptr, ptr {row}, i64 {word}",
            f"  {name}.base = load ptr, ptr {name}.cell",
            f"  {name} = getelementptr i8, ptr {name}.base, i64 {offset}",
            f"  call void @llvm.prefetch.p0(ptr {name}, i32 0, i32 3, i32 1)",
        ]
    return "\n".join(lines)
