"""What a kernel does, as traces: with an element, the rule between decoding and encoding.

A plain stream enters as a number; one with a correction as a number and an integer, `name.side`; one in
blocks as an integer code, `name.code`, and its block's scale. What leaves a block's stream is a number
again: its code depends on all of the block, so it is made in a second pass. What is kept by row, or as one
row, enters and leaves as the number of the row, and with it the mean over the row, `row.mean`, of what
`squares` says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

from thalweg.lowering.fusion import fused
from thalweg.lowering.trace import Integer, RowMean, Symbol, Trace, record_measures, record_recipe
from thalweg.rule import Recipe
from thalweg.storage.codecs import BlockCodec, Codec, HalfCodec, MeanCodec, RatioCodec
from thalweg.storage.codecs.draws import distance, first_word, numbers


def element(
    recipe: Recipe, on: Mapping[str, bool], scalars: Sequence[str], codecs: Mapping[str, Codec]
) -> Trace:
    """Return the first pass: decode, apply the rule, encode what is not in blocks; with fused products.

    Args:
        recipe: what steps are made by.
        on: its flags.
        scalars: the names of the scalars.
        codecs: those of `p` and of each slot, by name, in the rule's order.
    """
    record = Trace()
    values = _read_all(record, codecs)
    new = record_recipe(record, recipe, on, scalars, values, _row_mean(record, codecs))
    for name, codec in codecs.items():
        value = codec.part(new[name], new[codec.over]) if isinstance(codec, RatioCodec) else new[name]
        _write(record, name, codec, value, numbers(codecs))
    return fused(record)


def measures(
    recipe: Recipe, stage: str, on: Mapping[str, bool], scalars: Sequence[str], codecs: Mapping[str, Codec]
) -> Trace:
    """Return a pass that only reads: decode, and the summands of the measures of a stage, by their names.

    Args:
        recipe: what steps are made by.
        stage: one of its stages.
        on: its flags.
        scalars: the names of the scalars.
        codecs: those of `p` and of each slot, by name, in the recipe's order.
    """
    record = Trace()
    values = _read_all(record, codecs)
    found = record_measures(record, recipe, stage, on, scalars, values, _row_mean(record, codecs))
    record.outputs = {name: value.line for name, value in found.items()}
    return fused(record)


def squares(
    recipe: Recipe, on: Mapping[str, bool], scalars: Sequence[str], codecs: Mapping[str, Codec]
) -> Trace | None:
    """Return a pass that only reads: an element's `square`, whose mean over the row `element` reads.

    None, if nothing of the recipe is made of squares.
    """
    record = Trace()
    found: list[Symbol] = []

    def row_mean(squared: Symbol) -> Symbol:
        found.append(squared)
        return record.emit("input", "row.mean")

    values = _read_all(record, codecs)
    record_recipe(record, recipe, on, scalars, values, row_mean)
    if not found:
        return None
    assert len(found) == 1, "a rule has one second moment"
    record.outputs = {"square": found[0].line}
    return fused(record)


def _row_mean(record: Trace, codecs: Mapping[str, Codec]) -> RowMean | None:
    if not any(isinstance(codec, MeanCodec) for codec in codecs.values()):
        return None
    return lambda squared: record.emit("input", "row.mean")


def _read_all(record: Trace, codecs: Mapping[str, Codec]) -> dict[str, Symbol]:
    values = {name: _read(record, name, codec) for name, codec in codecs.items()}
    for name, codec in codecs.items():
        if isinstance(codec, RatioCodec):
            values[name] = codec.whole(values[name], values[codec.over])
    return values


def _read(record: Trace, name: str, codec: Codec) -> Symbol:
    if isinstance(codec, BlockCodec):
        return codec.decode(record.integer("whole", f"{name}.code"), record.integer("whole", scale_of(name)))
    value = record.emit("input", name)
    if isinstance(codec, HalfCodec) and codec.side:
        return codec.decode(value, record.integer("whole", f"{name}.side"))
    return value


def _write(record: Trace, name: str, codec: Codec, value: Symbol, number_of: Mapping[str, int]) -> None:
    if isinstance(codec, BlockCodec):
        for rank, found in zip(ranks_of(name, codec), codec.ranks(value), strict=True):
            record.outputs[f"{rank}.rank"] = found.line
    if isinstance(codec, HalfCodec):
        value, side = codec.encode(value, _word(record, number_of.get(name)))
        if codec.side:
            record.outputs[f"{name}.side"] = side.line
    record.outputs[name] = value.line


def _word(record: Trace, number: int | None) -> Integer | None:
    return None if number is None else record.integer("whole", f"word.{number}")


def words(codecs: Mapping[str, Codec], in_parts: bool = False) -> Trace:
    """Return the first element's words of a run, from the parameter's `key` and the run's `start`.

    Args:
        codecs: of what is stored, by name.
        in_parts: whether the first element is not that of the run, but the one at `lane`.
    """
    record = Trace()
    key, start = record.integer("whole", "key"), record.integer("whole", "start")
    for name, number in numbers(codecs).items():
        word = first_word(key, start, number)
        if in_parts:
            word = word + record.integer("whole", "lane") * distance(number, codecs[name].drawn)
        record.outputs[f"word.{number}"] = word.line
    return record


def scale_of(name: str) -> str:
    """Return the input of the first pass that is the scale of a block of `name`."""
    return f"{name}.scale"


def ranks_of(name: str, codec: BlockCodec) -> list[str]:
    """Return the names of the ranks that an element of `name` has."""
    return [f"{name}.{i}" for i in range(codec.ranked)]


def new_anchor(name: str, codec: BlockCodec) -> Trace:
    """Return how a block's new `anchor` and `scale` come from the `largest` of each of its ranks."""
    record = Trace()
    found = codec.anchor(*(record.integer("whole", f"{rank}.largest") for rank in ranks_of(name, codec)))
    record.outputs = {f"{name}.anchor": found.line, f"{name}.scale": codec.scale(found).line}
    return record


def pack(codecs: Mapping[str, Codec]) -> Trace:
    """Return the second pass: the codes of what is in blocks."""
    record = Trace()
    for name, codec in codecs.items():
        if isinstance(codec, BlockCodec):
            value, anchor = record.emit("input", name), record.integer("whole", f"{name}.anchor")
            code = codec.encode(value, anchor, _word(record, numbers(codecs)[name]))
            record.outputs[f"{name}.code"] = code.line
    return fused(record)


def counters(recipe: Recipe, choices: Mapping[str, bool]) -> Trace:
    """Return how the counters advance at the start of a step.

    Inputs are the counters by their names, the hyperparameters that are numbers as `h.name`, and the measures
    as `m.name`.

    Args:
        recipe: what steps are made by.
        choices: the hyperparameters that are flags or words.
    """
    record = Trace()
    t = _counters(record, recipe)
    if recipe.counters:
        recipe.advance(_hypers(record, recipe, choices), t, _measures(record, recipe))
    record.outputs = {counter.name: record.lift(getattr(t, counter.name)) for counter in recipe.counters}
    return record


def scalars(recipe: Recipe, choices: Mapping[str, bool]) -> Trace:
    """Return the scalars of a step, from the inputs of `counters` after they were advanced.

    Measures are inputs as `m.name`.
    """
    record = Trace()
    t = _counters(record, recipe)
    t.first = record.emit("truth", "first")
    found = recipe.scalars(_hypers(record, recipe, choices), t, _measures(record, recipe))
    record.outputs = {name: record.lift(value) for name, value in found.items()}
    return record


def scalar_names(recipe: Recipe, choices: Mapping[str, bool]) -> tuple[str, ...]:
    """Return the names of the scalars of a step, the columns of a row."""
    return _scalar_names(recipe, tuple(choices.items()))


@cache
def _scalar_names(recipe: Recipe, choices: tuple[tuple[str, bool], ...]) -> tuple[str, ...]:
    return tuple(scalars(recipe, dict(choices)).outputs)


def _measures(record: Trace, recipe: Recipe) -> SimpleNamespace:
    return SimpleNamespace(**{one.name: record.emit("input", f"m.{one.name}") for one in recipe.measures})


def _counters(record: Trace, recipe: Recipe) -> SimpleNamespace:
    return SimpleNamespace(**{c.name: record.emit("input", c.name) for c in recipe.counters})


def _hypers(record: Trace, recipe: Recipe, choices: Mapping[str, bool]) -> SimpleNamespace:
    values: dict[str, Any] = dict(choices)
    for hyper in recipe.hypers:
        symbols = tuple(record.emit("input", f"h.{name}") for name in hyper.columns)
        if symbols:
            values[hyper.name] = symbols if hyper.pair else symbols[0]
    return SimpleNamespace(**values)
