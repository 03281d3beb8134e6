"""Says whether tensors on the CPU go through the GPU's kernels, run by Triton's interpreter.

`THALWEG_TEST_TRITON=1` sends them there. To be imported before torch.
"""

import dataclasses
import itertools
import os
from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")

INTERPRETED = os.environ.get("THALWEG_TEST_TRITON") == "1"


def smaller(here: T, interpreted: T) -> T:
    """Return the second where the interpreter runs, which takes its time."""
    return interpreted if INTERPRETED else here


def sampled(first: Sequence[Any], *others: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Return all combinations; where the interpreter runs, each of the first and each of the rest.

    With `THALWEG_TEST_ADDITIONS=all` it runs all too.
    """
    if not INTERPRETED or os.environ.get("THALWEG_TEST_ADDITIONS") == "all":
        return list(itertools.product(first, *others))
    rest = list(itertools.product(*others))
    count = max(len(first), len(rest))
    return [(first[i % len(first)], *rest[i % len(rest)]) for i in range(count)]


if INTERPRETED:
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when it is imported, be it by torch


class _Kept:
    """What Triton takes for changes to its language, to be undone after a launch."""

    def restore(self) -> None:
        pass


def hasten() -> None:
    """Have Triton's interpreter do without what takes it a third of its time.

    At every launch it puts functions of its own in place of its language's, and puts those back: here they
    stay. And of every sum of integers it asks whether it overflows, which those of small tensors do not.
    """
    from triton.runtime import interpreter as tritons

    change, changed = tritons._patch_lang, set()
    languages = {id(tritons.tl), id(tritons.tl.core)}

    def change_once(function: Any) -> _Kept:
        seen = {id(value) for value in function.__globals__.values()} & languages
        if not seen <= changed:
            change(function)
            changed.update(seen)
        return _Kept()

    builder = tritons.interpreter_builder
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)
    tritons._patch_lang = change_once
