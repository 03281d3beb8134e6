"""Tracing: what is recorded is what the rule computes, each expression once."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from configurations import CONFIGURATIONS
from support import label, leaf, ours, rand

from thalweg.lowering.fusion import fused
from thalweg.lowering.passes import scalar_names
from thalweg.lowering.reference.rows import advance
from thalweg.lowering.trace import Integer, Symbol, Trace, trace
from thalweg.rule import Addition, Recipe, Rule, Slot, where

OPERATIONS = {
    "neg": lambda x: -x,
    "abs": abs,
    "sqrt": math.sqrt,
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "max": max,
    "fma": lambda x, y, z: x * y + z,
    "lt": lambda x, y: x < y,
    "gt": lambda x, y: x > y,
    "where": lambda condition, x, y: x if condition else y,
}


def evaluate(record: Trace, inputs: dict[str, float]) -> dict[str, float]:
    """Run a trace on numbers."""
    values: list[float] = []
    for operation, *operands in record.lines:
        if operation == "input":
            values.append(inputs[operands[0]])
        elif operation == "const":
            values.append(operands[0])
        else:
            assert all(operand < len(values) for operand in operands)
            values.append(OPERATIONS[operation](*(values[operand] for operand in operands)))
    return {name: values[line] for name, line in record.outputs.items()}


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=label)
def test_a_trace_computes_the_rule(configuration):
    optimizer = ours(configuration, [leaf(rand(1))])
    recipe, group = Recipe.of(optimizer.rule), optimizer.param_groups[0]
    h = recipe.numbers(group)
    on = recipe.flags(h)
    counters = {c.name: c.initial for c in recipe.counters}
    scalars, _ = advance(recipe, h, counters, first=False)
    slots = {slot.name: 0.3 + i for i, slot in enumerate(recipe.slots_on(on))}
    record = trace(recipe, on, scalar_names(recipe, recipe.choices(group)))
    inputs = {"p": 1.5, "g": -0.75, **slots, **{f"s.{k}": v for k, v in scalars.items()}}
    s, flags = SimpleNamespace(**scalars), SimpleNamespace(**on)
    p, new = recipe.apply(1.5, -0.75, slots, s, flags)
    assert evaluate(record, inputs) == {"p": p, **new}
    assert len(record.lines) == len(set(record.lines))
    assert evaluate(fused(record), inputs) == {"p": p, **new}


PLAIN = {"l2": False, "decoupled": False}
"""The flags of a rule that has none."""


def recipe_of(update, *slots, additions=()):
    rule = Rule(
        name="made up",
        update=update,
        scalars=lambda h, t: {},
        flags=lambda h: {},
        slots=tuple(map(Slot, slots)),
        hypers=(),
    )
    return Recipe(rule, additions)


@pytest.mark.parametrize(
    "update",
    [
        lambda g, a, s, on: (a if g > 0 else g, a),
        lambda g, a, s, on: (a and g, a),
        lambda g, a, s, on: (max(a, g), a),
        lambda g, a, s, on: (a * (not g), a),
    ],
)
def test_a_branch_on_data_is_refused(update):
    with pytest.raises(TypeError, match="cannot branch on data"):
        trace(recipe_of(update, "a"), PLAIN, ())


def test_a_number_made_of_data_is_refused():
    with pytest.raises(TypeError):
        trace(recipe_of(lambda g, s, on: (math.sqrt(g),)), PLAIN, ())


def test_equal_expressions_are_recorded_once():
    record = Trace()
    x, y = record.emit("input", "x"), record.emit("input", "y")
    assert (x * y).line == (x * y).line
    assert (x * y).line != (y * x).line  # rounding is the same, but the trace does no algebra
    assert (x + 1).line == (x + 1.0).line
    assert isinstance(x + 1, Symbol)


def test_zeros_of_different_sign_are_different_constants():
    record = Trace()
    x = record.emit("input", "x")
    record.outputs = {"a": (x + 0.0).line, "b": (x + -0.0).line}
    result = evaluate(record, {"x": -0.0})
    assert math.copysign(1, result["a"]) == 1
    assert math.copysign(1, result["b"]) == -1


def fused_trace(expression):
    """Return the fused trace of an expression of `p` and `g`."""
    record = Trace()
    record.outputs = {"p": expression(*(record.emit("input", name) for name in "pg")).line}
    return fused(record)


@pytest.mark.parametrize(
    ("expression", "lines"),
    [
        (lambda p, g: p * g + p, ["fma"]),
        (lambda p, g: p + p * g, ["fma"]),
        (lambda p, g: p * g - p, ["neg", "fma"]),
        (lambda p, g: p - p * g, ["neg", "fma"]),
        (lambda p, g: p * p + g * g, ["mul", "fma"]),
        (lambda p, g: p * g + p / (p * g), ["mul", "div", "add"]),  # needed twice
        (lambda p, g: p * g, ["mul"]),
    ],
)
def test_a_product_and_a_sum_become_one(expression, lines):
    assert [line[0] for line in fused_trace(expression).lines if line[0] != "input"] == lines


def test_the_product_of_a_step_and_its_subtraction_become_one():
    record = fused(trace(recipe_of(lambda g, s, on: (s.lr * g,)), PLAIN, ("lr",)))
    assert [line[0] for line in record.lines if line[0] != "input"] == ["neg", "fma"]


def test_of_two_products_the_first_is_fused():
    record = fused_trace(lambda p, g: p * p + g * g)
    p, g = (record.lines.index(("input", name)) for name in "pg")
    product = record.lines.index(("mul", g, g))
    assert record.lines[record.outputs["p"]] == ("fma", p, p, product)


def test_an_output_may_be_an_input_or_a_number():
    stay = Addition("stay", (), weights=lambda x: (x.p, {}))
    recipe = recipe_of(lambda g, a, b, s, on: (0.5, 2.0, a), "a", "b", additions=(stay,))
    record = trace(recipe, PLAIN, ())
    assert evaluate(record, {"p": 1.0, "g": 0.0, "a": 5.0, "b": 6.0}) == {"p": 1.0, "a": 2.0, "b": 5.0}


def test_a_rule_that_returns_too_little_is_refused():
    with pytest.raises(ValueError, match="zip"):
        trace(recipe_of(lambda g, a, s, on: (g,), "a"), PLAIN, ())


def test_a_codec_that_branches_on_data_is_refused():
    record = Trace()
    x = record.emit("input", "x")
    with pytest.raises(TypeError, match="cannot branch on data"):
        assert x.bits() & 1
    with pytest.raises(TypeError):
        x.bits() + 0.5


def test_a_choice_between_integers_is_one():
    record = Trace()
    x = record.emit("input", "x")
    chosen = where(x.bits() < 3, 1, x.bits())
    assert isinstance(chosen, Integer)
    assert record.lines[chosen.line][0] == "choose"
    assert isinstance(where(x.bits() < 3, x, 1.0), Symbol)
