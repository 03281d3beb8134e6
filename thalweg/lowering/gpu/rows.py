"""The text of the kernel that advances the counters and works out the rows of scalars, one for each tensor.

So a step needs nothing of the host but hyperparameters.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import NamedTuple

from thalweg.lowering import passes
from thalweg.lowering.gpu.elements import indented
from thalweg.lowering.gpu.expressions import lines, plain
from thalweg.rule import Recipe
from thalweg.storage.codecs import draws

WIDTH = 128
"""Tensors whose rows one program works out."""


class Kind(NamedTuple):
    """What the code that makes rows depends on beside the rule and its choices.

    Args:
        real: the dtype of a row, `float32` or `float64`.
        counter: the dtype of counters.
        unscale: whether a row ends with the inverse of GradScaler's scale.
        draws: whether keys are needed.
    """

    real: str
    counter: str
    unscale: bool
    draws: bool


def rows(recipe: Recipe, choices: Mapping[str, bool], kind: Kind) -> str:
    """Return the kernel that advances counters and works out rows.

    Args:
        recipe: what steps are made by.
        choices: the hyperparameters that are flags.
        kind: what else it depends on.
    """
    advance, scalars = passes.counters(recipe, choices), passes.scalars(recipe, choices)
    old = [f"{c.name}_at = {_counter_at(i, kind)}" for i, c in enumerate(recipe.counters)]
    old += [f"{c.name} = tl.load({c.name}_at, mask=mask, other=0.0).to(tl.float64)" for c in recipe.counters]
    new = []
    for counter in recipe.counters:
        new += [
            f"{counter.name}_stored = {counter.name}_new.to(tl.{kind.counter})",
            f"tl.store({counter.name}_at, {counter.name}_stored, mask=go)",
            f"{counter.name} = {counter.name}_stored.to(tl.float64)",
        ]
    columns = [f"{plain(name)}_s" for name in scalars.outputs]
    if kind.unscale:
        columns.append("1.0 / tl.load(scale).to(tl.float64)")
    out = [
        f"tl.store(rows + at * {len(columns)} + {i}, ({value}).to(tl.{kind.real}), mask=mask)"
        for i, value in enumerate(columns)
    ]
    drawn = [
        "seed = tl.load(draws + 2 * group, mask=mask, other=0).to(tl.uint64, bitcast=True)",
        "count_at = tl.load(draws + 2 * group + 1, mask=mask, other=0).to(tl.pointer_type(tl.int64))",
        "drawn = tl.load(count_at, mask=mask, other=0).to(tl.uint64, bitcast=True)",
        "word = key(seed, drawn, ordinal.to(tl.uint64, bitcast=True))",
        "tl.store(keys + at, word.to(tl.uint32).to(tl.int32, bitcast=True), mask=mask)",
    ]
    body = [
        *(
            f"{plain('m.' + one.name)} = tl.load(m + {i}, mask=mask, other=0.0)"
            for i, one in enumerate(recipe.measures)
        ),
        *(
            f"{plain('h.' + n)} = tl.load(h + {i}, mask=mask, other=0.0)"
            for i, n in enumerate(recipe.columns)
        ),
        *old,
        *lines(advance, "float64", plain, prefix="a"),
        *new,
        *lines(scalars, "float64", plain, prefix="b", suffix="_s"),
        *out,
        *(drawn if kind.draws else []),
    ]
    return _ROWS.format(
        rule=recipe.name,
        width=WIDTH,
        key="\n\n\n".join([_as_written(draws.mixed), _as_written(draws.key)]),
        hypers=len(recipe.columns),
        measures=len(recipe.measures),
        body=indented(4, body),
    )


def _as_written(function: Callable[..., object]) -> str:
    """Return a function of operators alone as Triton's: by its source, which is the same."""
    signature, *body = inspect.getsource(function).splitlines()
    name = signature.removeprefix("def ").partition("(")[0]
    names = ", ".join(inspect.signature(function).parameters)
    return "\n".join(["@triton.jit", f"def {name}({names}):", *body])


def _counter_at(index: int, kind: Kind) -> str:
    pointer = f"tl.pointer_type(tl.{kind.counter})"
    return f"tl.load(addresses + (streams + {index}) * tensors + at, mask=mask, other=0).to({pointer})"


_ROWS = """\
# {rule}
WIDTH = tl.constexpr({width})


{key}


@triton.jit(
    do_not_specialize=["streams", "tensors", "keeps"],
    do_not_specialize_on_alignment=["scale", "found_inf"],
)
def rows(
    addresses, groups, first_at, hypers, draws, ordinals, rows, keys, scale, found_inf, measures,
    streams, tensors, keeps,
):
    at = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    mask = at < tensors
    is_present = tl.load(addresses + tensors + at, mask=mask, other=0) != 0
    go = is_present & (tl.load(found_inf + at * 0) == 0) & (keeps == 0)
    group = tl.load(groups + at, mask=mask, other=0)
    ordinal = tl.load(ordinals + at, mask=mask, other=0)
    first = tl.load(first_at + ordinal, mask=mask, other=0) != 0
    h = hypers + group * {hypers}
    m = measures + at.to(tl.int64) * {measures}
{body}
    tl.store(first_at + ordinal, 0, mask=go)
"""
