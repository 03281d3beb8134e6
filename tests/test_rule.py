"""The vocabulary: primitives mean the same on numbers, tensors and symbols; hypers refuse what is outside."""

from __future__ import annotations

import inspect
import itertools
import math
import re
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
from thalweg import additions
from thalweg.additions import ADDITIONS
from thalweg.lowering.passes import element, measures, scalar_names
from thalweg.lowering.reference.rows import advance
from thalweg.lowering.trace import Trace, operands_of
from thalweg.rule import Hyper, Recipe, lerp, maximum, sign, sqrt, where
from thalweg.storage import choices as storage
from thalweg.storage.codecs import FLOAT32

quick = hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
CLASSES = [
    getattr(tw, name)
    for name in tw.__all__
    if name[0].isupper() and name not in ("Optimizer", "Mixed", "SAM")
]
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
    above = hyper.low < number if hyper.open_low else hyper.low <= number
    below = number < hyper.high if hyper.open_high else number <= hyper.high
    if above and below and (math.isfinite(number) or (hyper.infinite and number == math.inf)):
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
            Recipe.of(cls.rule).check(group)
        except ValueError:
            continue
        yield group


@every_class
def test_a_rule_returns_as_much_as_it_says(cls):
    rule, recipe, seen = cls.rule, Recipe.of(cls.rule), set()
    for group in everything(cls):
        h = SimpleNamespace(**group)
        flags = recipe.flags(h)
        key = tuple(flags.items())
        if key in seen:
            continue
        seen.add(key)
        assert all(type(flag) is bool for flag in flags.values()), flags
        counters = {c.name: c.initial for c in rule.counters}
        measured = SimpleNamespace(**{measure.name: 0.5 for measure in recipe.measures})
        scalars, after = advance(recipe, h, counters, first=True, m=measured)
        assert tuple(scalars) == scalar_names(recipe, recipe.choices(group))
        assert after.keys() == counters.keys()
        s, on = SimpleNamespace(**scalars), SimpleNamespace(**flags)
        slots = {slot.name: 0.5 for slot in recipe.slots_on(flags)}
        given = [slots.get(slot.name) for slot in rule.slots]
        assert len(rule.update(0.25, *given, s, on)) == 1 + len(rule.slots)
        p, new = recipe.apply(1.0, 0.25, slots, s, on)
        assert isinstance(p, float)
        assert new.keys() == slots.keys()
        assert all(isinstance(value, float) for value in new.values())
        for slot in recipe.slots_on(flags):
            assert slot.signed or new[slot.name] >= 0


def symbols(record, prefix, names):
    return SimpleNamespace(**{name: record.emit("input", f"{prefix}{name}") for name in names})


def host_trace(recipe, group):
    """Return what is worked out once a step: the counters by name, and the scalars as `s.<name>`.

    Inputs are the counters as they were, hyperparameters as `h.<name>` and measures as `m.<name>`.
    """
    record, h = Trace(), recipe.numbers(group)
    for hyper in recipe.hypers:
        if hyper.columns:
            numbers = tuple(record.emit("input", f"h.{column}") for column in hyper.columns)
            setattr(h, hyper.name, numbers if hyper.pair else numbers[0])
    t = symbols(record, "", (counter.name for counter in recipe.counters))
    m = symbols(record, "m.", (measure.name for measure in recipe.measures))
    recipe.advance(h, t, m)
    record.outputs = {name: record.lift(value) for name, value in vars(t).items()}
    t.first = record.emit("truth", "first")
    found = recipe.scalars(h, t, m)
    record.outputs |= {f"s.{name}": record.lift(value) for name, value in found.items()}
    return record


def measure_traces(recipe, on, scalars):
    """Return how each summand of a measure comes about, as `m.<name>`."""
    codecs = dict.fromkeys(("p", *(slot.name for slot in recipe.slots_on(on))), FLOAT32)
    for stage in recipe.stages:
        record = measures(recipe, stage, on, scalars, codecs)
        record.outputs = {f"m.{name}": line for name, line in record.outputs.items()}
        yield record


def inputs_of(record, output):
    """Return the inputs of a trace that an output depends on."""
    found, seen, pending = set(), set(), [record.outputs[output]]
    while pending:
        line = pending.pop()
        if line not in seen:
            seen.add(line)
            operation, *operands = record.lines[line]
            if operation in ("input", "truth"):
                found.add(operands[0])
            pending += operands_of(record.lines[line])
    return found


def reaching(recipe, group):
    """Return all that a parameter, or a slot of an addition, depends on after some steps."""
    on = recipe.flags(recipe.numbers(group))
    host, slots = host_trace(recipe, group), recipe.slots_on(on)
    scalars = [name.removeprefix("s.") for name in host.outputs if name.startswith("s.")]
    step = element(recipe, on, scalars, dict.fromkeys(("p", *(slot.name for slot in slots)), FLOAT32))
    records = (host, step, *measure_traces(recipe, on, scalars))
    source = {name: inputs_of(record, name) for record in records for name in record.outputs}
    for slot in slots:
        source[slot.name] |= {f"h.{slot.initial}"} if slot.initial else set()
    found, pending = set(), ["p", *(slot.name for a in recipe.additions for slot in a.slots)]
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += source.get(name, ())
    return {name.removeprefix("h.") for name in found if name.startswith("h.")}


def off_default(hyper):
    """Return values of an addition's hyperparameter to try: all it may be, or one number off its default."""
    if hyper.flag or hyper.words:
        return hyper.words or (False, True)
    low = max(hyper.low, 0.0)
    middle = low + 1.5 if hyper.high == math.inf else (low + hyper.high) / 2
    number = math.ceil(middle) if hyper.whole else middle
    return ((number, number) if hyper.pair else number,)


MODES = ("maximize", "capturable", "differentiable")
"""Flags that no rule sees."""


def ways(cls, addition):
    """Return groups and their recipes: a class's flags in all ways, or one at a time beside an addition."""
    hypers = addition.hypers if addition else ()
    for group in everything(cls):
        flags = sum(group[hyper.name] for hyper in cls.rule.hypers if hyper.flag)
        if any(group.get(mode) for mode in MODES) or (addition and flags > 1):
            continue
        for values in itertools.product(*map(off_default, hypers)):
            full = {**group, **{hyper.name: value for hyper, value in zip(hypers, values, strict=True)}}
            try:
                recipe = additions.check(cls.rule, full)
            except ValueError:
                continue  # they do not go together
            if recipe.additions == ((addition,) if addition else ()):
                yield full, recipe


def idle(group):
    """Return the numbers that have nothing to do in a group, because there is none of what they are of."""
    found = set() if group.get("weight_decay") else {"weight_decay"}
    return found if group.get("momentum") else found | {"momentum", "dampening"}


@every_class
@pytest.mark.parametrize("addition", [None, *ADDITIONS], ids=lambda one: one.name if one else "alone")
def test_every_number_reaches_the_parameter(cls, addition):
    own = {column for hyper in cls.rule.hypers for column in hyper.columns}
    more = {column for hyper in addition.hypers for column in hyper.columns} if addition else set()
    more -= {"skip_nonfinite"}  # how many steps in a row is counted by the host
    tried = False
    for group, recipe in ways(cls, addition):
        reached = reaching(recipe, group)
        ignored = own - idle(group) - reached
        assert not ignored, f"{sorted(ignored)} without effect in {group}"
        more -= reached
        tried = True
    if addition and not tried:
        pytest.skip("they do not go together")
    assert tried
    assert not more, f"{sorted(more)} without effect"


@every_class
def test_no_number_is_read_that_has_nothing_to_do(cls):
    for group, recipe in ways(cls, None):
        assert not reaching(recipe, group) & idle(group), group


@every_class
def test_a_rule_names_what_exists(cls):
    defaults = cls([leaf(rand(1))]).defaults
    rule = cls.rule
    flags = Recipe.of(rule).flags(SimpleNamespace(**defaults))
    assert {h.name for h in rule.hypers} | {"foreach", "fused", *storage.DEFAULTS} >= defaults.keys()
    assert {h.name for h in rule.hypers} <= defaults.keys()
    for slot in rule.slots:
        assert slot.when is None or slot.when in flags
        assert slot.initial is None or slot.initial in defaults
    assert len({slot.name for slot in rule.slots}) == len(rule.slots)


@every_class
def test_every_argument_is_checked_and_documented(cls):
    text = cls.__doc__ if "Args:" in cls.__doc__ else cls.__mro__[1].__doc__
    (shared,) = re.findall(r"(?m)^ +(.*): see `thalweg.Optimizer`", text)
    shared = shared.split(", ")
    for name in inspect.signature(cls).parameters.keys() | {hyper.name for hyper in cls.rule.hypers}:
        if name in shared:
            assert re.search(rf"(?m)^ +(- `{name}`|{name}): ", tw.Optimizer.__doc__), name
        else:
            assert name == "decoupled_weight_decay" or f"{name}:" in text, name
    assert set(shared) <= inspect.signature(cls).parameters.keys()


@every_class
def test_a_constructor_hands_on_all_that_it_takes(cls):
    given = {
        name: parameter.default
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.default is not parameter.empty
    }
    hypers = {hyper.name for hyper in cls.rule.hypers}
    assert given.keys() | {"decoupled_weight_decay"} >= hypers
    defaults = cls([leaf(rand(1))]).defaults
    assert defaults.keys() == hypers | given.keys() | storage.DEFAULTS.keys()
    for name, value in given.items():
        if (cls, name) == (tw.Prodigy, "beta3"):
            value = 0.999**0.5  # the root of beta2
        assert defaults[name] == value, name
