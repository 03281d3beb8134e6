"""The formulas of the page are the rules that are stepped."""

import random
import re
from types import SimpleNamespace

import pytest

from thalweg.algorithms import adam, rmsprop, sgd
from thalweg.lab.lesson.page.optimizers import OPTIMIZERS, maths, source
from thalweg.lab.lesson.page.terms import formula
from thalweg.lab.lesson.page.typeset import symbols, typeset

VALUES = {
    "g": -0.7,
    "t": 3.0,
    "lr": 0.02,
    "momentum": 0.9,
    "betas.0": 0.9,
    "betas.1": 0.999,
    "alpha": 0.99,
    "eps": 1e-3,
    "dampening": 0.25,
}

CASES = {
    "sgd": (sgd.RULE, {}),
    "sgd without dampening": (sgd.RULE, {"dampening": 0.0}),
    "plain sgd": (sgd.RULE, {"momentum": 0.0}),
    "nesterov": (sgd.RULE, {"dampening": 0.0, "nesterov": True}),
    "adam": (adam.RULE, {}),
    "amsgrad": (adam.RULE, {"amsgrad": True}),
    "rmsprop": (rmsprop.RULE, {"momentum": 0.0}),
    "rmsprop with all": (rmsprop.RULE, {"debias": True, "momentum_ema": True, "centered": True}),
    "eps inside": (rmsprop.RULE, {"eps_inside_sqrt": True, "nesterov": True}),
}


def stepped(rule, options, slots):
    """The step and the new slots by the rule itself, on Python's floats."""
    values = {hyper.name: VALUES.get(hyper.name, False) for hyper in rule.hypers}
    values |= {"betas": (VALUES["betas.0"], VALUES["betas.1"])} | options
    hypers = SimpleNamespace(**values)
    on = rule.flags(hypers)
    scalars = rule.scalars(hypers, SimpleNamespace(first=False, step=3))
    given = [slots[slot.name] if slot.when is None or on[slot.when] else None for slot in rule.slots]
    step, *made = rule.update(VALUES["g"], *given, SimpleNamespace(**scalars), SimpleNamespace(**on))
    return step, {slot.name: new for slot, new in zip(rule.slots, made, strict=True)}


@pytest.mark.parametrize("name", CASES)
def test_a_formula_gives_what_the_rule_gives(name):
    rule, options = CASES[name]
    draw = random.Random(name)
    slots = {slot.name: draw.uniform(0.5, 1.5) for slot in rule.slots}
    found = formula(rule, **options)
    values = VALUES | slots | {name: value for name, value in options.items() if value is not True}
    step, new = stepped(rule, options, slots)
    assert found.step.value(values) == pytest.approx(step, rel=1e-12)
    assert found.slots or name == "plain sgd"
    for slot, one in found.slots.items():
        assert one.value(values) == pytest.approx(new[slot], rel=1e-12)


def text(html: str) -> str:
    return re.sub(r"<[^>]+>", "", html).replace("&minus;", "-")


def test_adam_reads_as_in_its_paper():
    lines = [text(line) for line in typeset(formula(adam.RULE)).split("</div>") if line]
    assert lines[0] == "mt=&beta;1mt-1+(1-&beta;1)gt"
    assert lines[1] == "vt=&beta;2vt-1+(1-&beta;2)gt2"
    assert lines[2:] == ["m^t=mt1-&beta;1t", "v^t=vt1-&beta;2t", "pt=pt-1-&gamma;m^tv^t+&epsi;"]


def test_a_sum_in_a_product_has_brackets_and_a_slot_its_step():
    html = typeset(formula(rmsprop.RULE, momentum=0.0))
    assert text(html) == "vt=&alpha;vt-1+(1-&alpha;)gt2pt=pt-1-&gamma;gtvt+&epsi;"


def test_the_key_names_every_letter():
    found = formula(sgd.RULE, dampening=0.0)
    assert list(symbols(found)) == ["momentum", "momentum_buffer", "lr"]


def test_all_three_show_their_source():
    for rule, options in OPTIMIZERS.values():
        html = maths(rule, formula(rule, **options))
        assert source(rule).startswith(f"def {rule.name}(g, ")
        assert "noqa" not in html
        assert "return s" in html
