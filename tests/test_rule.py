"""The vocabulary: primitives mean the same on numbers, tensors and symbols; hypers refuse what is outside."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import leaf, rand
from test_trace import evaluate

import thalweg as tw
from thalweg.lowering.passes import scalar_names
from thalweg.lowering.reference.rows import advance
from thalweg.lowering.trace import Trace
from thalweg.rule import Hyper, lerp, maximum, sign, sqrt, where
from thalweg.storage import choices as storage

quick = hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
CLASSES = [getattr(tw, name) for name in tw.__all__ if name[0].isupper() and name != "Optimizer"]
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
numbers = st.floats(-1e6, 1e6)

PRIMITIVES = {
    "sqrt": lambda x, y, w: sqrt(x * x),
    "maximum": lambda x, y, w: maximum(x, y),
    "maximum with a number": lambda x, y, w: maximum(x, 0.5),
    "where": lambda x, y, w: where(x > y, x, y),
    "where below": lambda x, y, w: where(x < 0, 1.0, y),
    "sign": lambda x, y, w: sign(x),
    "lerp": lambda x, y, w: lerp(x, y, w),
    "arithmetic": lambda x, y, w: (1.0 - x) * 2.0 + abs(y) - (-x) / (abs(y) + 1.0) + (2.0 / 1.0),
}


@pytest.mark.parametrize("primitive", PRIMITIVES)
@given(x=numbers, y=numbers, w=st.floats(0, 1))
@quick
def test_primitives_agree(primitive, x, y, w):
    function = PRIMITIVES[primitive]
    exact = function(x, y, w)
    on_tensors = function(*(torch.tensor(v, dtype=torch.float64) for v in (x, y, w)))
    record = Trace()
    symbols = [record.emit("input", name) for name in "xyw"]
    record.outputs = {"out": record.lift(function(*symbols))}
    traced = evaluate(record, {"x": x, "y": y, "w": w})["out"]
    assert float(on_tensors) == exact
    assert traced == exact


def test_what_is_not_a_number_passes_through():
    nan = torch.tensor(float("nan"))
    one = torch.tensor(1.0)
    for value in (maximum(nan, one), maximum(one, nan), maximum(nan, 0.0), sign(nan)):
        assert value.isnan()
    assert sqrt(-one).isnan()
    assert lerp(nan, one, torch.tensor(0.5)).isnan()


def test_lerp_is_exact_at_its_ends():
    for start, end in ((0.1, 0.3), (1e30, 1.0), (-7.0, 1e-9)):
        start, end = (torch.tensor(v, dtype=torch.float32) for v in (start, end))
        assert lerp(start, end, torch.tensor(0.0)) == start
        assert lerp(start, end, torch.tensor(1.0)) == end


def test_lerp_settles_on_a_constant():
    average, target = torch.zeros(()), torch.tensor(0.3)
    for _ in range(12_000):
        average = lerp(average, target, torch.tensor(0.001))
    assert abs(average - target) < 1e-4 * target


hypers = sorted({h for cls in CLASSES for h in cls.rule.hypers if not h.flag}, key=lambda h: (h.name, h.high))


def as_value(hyper: Hyper, number):
    return (0.5, number) if hyper.pair else number


@pytest.mark.parametrize("hyper", hypers, ids=lambda h: h.name)
@given(number=st.floats(allow_nan=True, allow_infinity=True))
@quick
def test_a_hyper_takes_what_is_inside_and_names_itself_for_the_rest(hyper, number):
    inside = hyper.low <= number < hyper.high if hyper.open_high else hyper.low <= number <= hyper.high
    if inside and math.isfinite(number):
        hyper.check(as_value(hyper, number))
        hyper.check(as_value(hyper, torch.tensor(number, dtype=torch.float64)))
    else:
        with pytest.raises(ValueError, match=hyper.name) as error:
            hyper.check(as_value(hyper, number))
        assert repr(number) in str(error.value)
        assert hyper.allowed in str(error.value)


@pytest.mark.parametrize("hyper", hypers, ids=lambda h: h.name)
@pytest.mark.parametrize("value", ["fast", None, [0.1], {"a": 1}])
def test_a_hyper_refuses_what_is_no_number(hyper, value):
    with pytest.raises((TypeError, ValueError), match=hyper.name):
        hyper.check(value)


def test_a_flag_is_what_its_value_is_in_an_if():
    flag = Hyper("maximize", flag=True)
    for value in (0, 1, "yes", None, np.bool_(True), torch.tensor(False), []):
        flag.check(value)
        assert flag.read(value) is bool(value)
    with pytest.raises(TypeError, match="maximize must be True or False, not array"):
        flag.check(np.ones(2))


def everything(cls):
    """Return hyperparameters for each way the flags of a class may stand that the class allows."""
    defaults = cls([leaf(rand(1))]).defaults
    choices = {h.name: [False, True] for h in cls.rule.hypers if h.flag}
    choices |= {"weight_decay": [0.0, 0.1]}
    if "momentum" in defaults:
        choices["momentum"] = [0.0, 0.9]
    for values in itertools.product(*choices.values()):
        group = {**defaults, **dict(zip(choices, values, strict=True))}
        try:
            cls.rule.check(group)
        except ValueError:
            continue
        yield group


@every_class
def test_a_rule_returns_as_much_as_it_says(cls):
    rule, seen = cls.rule, set()
    for group in everything(cls):
        h = SimpleNamespace(**group)
        flags = rule.flags(h)
        key = tuple(flags.items())
        if key in seen:
            continue
        seen.add(key)
        assert all(type(flag) is bool for flag in flags.values()), flags
        counters = {c.name: c.initial for c in rule.counters}
        scalars, after = advance(rule, h, counters, first=True)
        assert tuple(scalars) == scalar_names(rule, rule.choices(group))
        assert after.keys() == counters.keys()
        s, on = SimpleNamespace(**scalars), SimpleNamespace(**flags)
        slots = {slot.name: 0.5 for slot in rule.slots_on(flags)}
        assert len(rule.update(1.0, 0.25, *(slots.get(x.name) for x in rule.slots), s, on)) == 1 + len(
            rule.slots
        )
        p, new = rule.apply(1.0, 0.25, slots, s, on)
        assert isinstance(p, float)
        assert new.keys() == slots.keys()
        assert all(isinstance(value, float) for value in new.values())
        for slot in rule.slots_on(flags):
            assert slot.signed or new[slot.name] >= 0


@every_class
def test_a_rule_names_what_exists(cls):
    defaults = cls([leaf(rand(1))]).defaults
    rule = cls.rule
    flags = rule.flags(SimpleNamespace(**defaults))
    assert {h.name for h in rule.hypers} | {"foreach", "fused", *storage.DEFAULTS} >= defaults.keys()
    assert {h.name for h in rule.hypers} <= defaults.keys()
    for slot in rule.slots:
        assert slot.when is None or slot.when in flags
        assert slot.initial is None or slot.initial in defaults
    assert len({slot.name for slot in rule.slots}) == len(rule.slots)


@every_class
def test_every_hyperparameter_is_checked_and_documented(cls):
    text = cls.__doc__ if "Args:" in cls.__doc__ else cls.__mro__[1].__doc__
    for hyper in cls.rule.hypers:
        assert hyper.name == "decoupled_weight_decay" or f"{hyper.name}:" in text, hyper.name
