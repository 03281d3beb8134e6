"""Schedules: the factor at every step, and that a resumed run has the rates of an uninterrupted one."""

from __future__ import annotations

import copy
import io
import math
import pickle
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import thalweg as tw
from thalweg import schedules

DOCS = Path(__file__).parent.parent / "docs"
LARGE = 1_000_000

SCHEDULES = {
    "linear": (schedules.linear, schedules.linear_factor),
    "cosine": (schedules.cosine, schedules.cosine_factor),
    "wsd": (schedules.wsd, schedules.wsd_factor),
    "staircase": (schedules.staircase, schedules.staircase_factor),
}


@st.composite
def phases(draw):
    """Return the name of a schedule with its arguments."""
    name = draw(st.sampled_from(list(SCHEDULES)))
    if name == "staircase":
        every = draw(st.one_of(st.integers(1, 9), st.floats(0.25, 9)))
        return name, {"every": every, "factor": draw(st.floats(0.1, 1)), "warmup": draw(st.integers(0, 9))}
    steps = draw(st.integers(1, 40))
    warmup = draw(st.one_of(st.integers(0, steps), st.floats(0, 0.5)))
    kwargs = {"steps": steps, "warmup": warmup, "end": draw(st.sampled_from([0.0, 0.1, 1.0]))}
    if name == "wsd":
        used = warmup if isinstance(warmup, int) else steps // 2
        kwargs["decay"] = draw(st.integers(0, steps - used))
        kwargs["shape"] = draw(st.sampled_from(["linear", "1-sqrt", "cosine"]))
    return name, kwargs


def optimizer_of(cls, rates):
    params = [torch.nn.Parameter(torch.ones(2)) for _ in rates]
    return cls([{"params": [p], "lr": lr} for p, lr in zip(params, rates, strict=True)])


def rates_of(optimizer):
    """Return the rates as they are, tensors by value."""
    return [
        (lr.dtype, lr.item()) if isinstance(lr := group["lr"], torch.Tensor) else lr
        for group in optimizer.param_groups
    ]


def run(optimizer, schedule, steps):
    seen = []
    for _ in range(steps):
        seen.append(rates_of(optimizer))
        for group in optimizer.param_groups:
            for param in group["params"]:
                param.grad = torch.ones_like(param)
        optimizer.step()
        schedule.step()
    return seen


def saved(value):
    """Return what torch.save and torch.load make of a value, with nothing but plain types allowed."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_linear_step_by_step():
    factors = [schedules.linear_factor(t, 8, 3) for t in range(10)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.8, 0.6, 0.4, 0.2, 0.0, 0.0])
    factors = [schedules.linear_factor(t, 4, end=0.5) for t in range(6)]
    assert factors == pytest.approx([1.0, 0.875, 0.75, 0.625, 0.5, 0.5])


def test_cosine_step_by_step():
    factors = [schedules.cosine_factor(t, 6, 2, end=0.2) for t in range(8)]
    middle = [0.2 + 0.4 * (1 + math.cos(math.pi * k / 4)) for k in range(4)]
    assert factors == pytest.approx([1 / 3, 2 / 3, *middle, 0.2, 0.2])


def test_cosine_is_torchs_without_a_warmup():
    optimizer = optimizer_of(torch.optim.SGD, [0.3])
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20, eta_min=0.03)
    expected = [rates[0] / 0.3 for rates in run(optimizer, theirs, 21)]
    assert [schedules.cosine_factor(t, 20, end=0.1) for t in range(21)] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("shape", "falling"),
    [
        ("linear", [1, 0.75, 0.5, 0.25]),
        ("1-sqrt", [1, 0.5, 1 - math.sqrt(0.5), 1 - math.sqrt(0.75)]),
        ("cosine", [1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)]),
    ],
)
def test_wsd_step_by_step(shape, falling):
    factors = [schedules.wsd_factor(t, 10, 1, 4, shape=shape) for t in range(12)]
    assert factors == pytest.approx([0.5, 1, 1, 1, 1, 1, *falling, 0, 0])


def test_staircase_step_by_step():
    factors = [schedules.staircase_factor(t, every=2.4, factor=0.5, warmup=1) for t in range(8)]
    assert factors == [0.5, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25]
    # TensorFlow's and timm's: falls are counted from the beginning, also during the warm-up.
    assert schedules.staircase_factor(5, every=2.4, factor=0.97, warmup=5) == 0.97**2


@given(phases(), st.integers(0, 60))
def test_factors(schedule, step):
    name, kwargs = schedule
    factor = SCHEDULES[name][1]
    value = factor(step, **kwargs)
    assert 0 <= value <= 1
    assert type(value) is float
    steps = kwargs.get("steps", LARGE)
    if step < steps:
        assert value > 0 or name == "staircase"  # no step of the run is wasted
        assert value >= min(kwargs.get("end", 0.0), factor(0, **kwargs))
    else:
        assert value == kwargs["end"]
    warmup = kwargs["warmup"]
    warmup = warmup if isinstance(warmup, int) else math.floor(warmup * steps + 1e-9)
    if step < warmup <= steps and step + 1 < steps and name != "staircase":
        assert value == (step + 1) / (warmup + 1) < factor(step + 1, **kwargs) or step + 1 == warmup
    if step >= warmup and name != "staircase":
        assert value >= factor(step + 1, **kwargs)
    if step == warmup < steps and kwargs.get("decay", 0) < steps and name != "staircase":
        assert value == 1.0


@pytest.mark.parametrize(("name", "args"), [("linear", (5,)), ("cosine", (5,)), ("wsd", (5, 0, 2))])
def test_without_a_warmup_the_first_step_has_the_full_rate(name, args):
    build, factor = SCHEDULES[name]
    assert factor(0, *args) == 1.0
    assert factor(0, args[0], 0.0, *args[2:]) == 1.0
    optimizer = optimizer_of(torch.optim.SGD, [0.1])
    build(optimizer, *args)
    assert rates_of(optimizer) == [0.1]


@pytest.mark.parametrize(
    ("share", "steps", "expected"), [(0.1, 30, 3), (0.29, 100, 29), (0.5, 3, 1), (0.3, 10, 3), (0.01, 50, 0)]
)
def test_shares_are_rounded_down(share, steps, expected):
    for t in range(steps + 1):
        assert schedules.linear_factor(t, steps, share) == schedules.linear_factor(t, steps, expected)
        assert schedules.wsd_factor(t, steps, 0, share) == schedules.wsd_factor(t, steps, 0, expected)


@pytest.mark.parametrize("decay", [0.5, 0.7, 0.9])
def test_shares_that_fit_together_fit(decay):
    for steps in range(1, 60):
        assert schedules.wsd_factor(steps, steps, round(1 - decay, 1), decay) == 0.0


RATES = [
    [0.1],
    [0.1, 0.003, 1.0],
    [torch.tensor(0.1), torch.tensor(0.03, dtype=torch.float64)],
    [torch.tensor(0.1), 0.7],
]
CLASSES = [torch.optim.SGD, torch.optim.AdamW, tw.SGD, tw.AdamW, tw.RMSprop]


@given(
    schedule=phases(),
    rates=st.sampled_from(RATES),
    cls=st.sampled_from(CLASSES),
    before=st.integers(0, 30),
    how=st.sampled_from(["optimizer first", "schedule first", "built between", "last_step", "pickled"]),
)
def test_a_resumed_run_has_the_same_rates_bit_for_bit(schedule, rates, cls, before, how):
    build = SCHEDULES[schedule[0]][0]

    def fresh():
        return optimizer_of(cls, copy.deepcopy(rates))

    optimizer = fresh()
    scheduler = build(optimizer, **schedule[1])
    expected = run(optimizer, scheduler, before + 12)

    optimizer = fresh()
    scheduler = build(optimizer, **schedule[1])
    assert run(optimizer, scheduler, before) == expected[:before]
    # A rate that is saved in a file is no view of the one that goes on.
    states = saved({"optimizer": optimizer.state_dict(), "schedule": scheduler.state_dict()})
    other = fresh()
    if how == "optimizer first":
        again = build(other, **schedule[1])
        other.load_state_dict(states["optimizer"])
        again.load_state_dict(states["schedule"])
    elif how == "schedule first":
        again = build(other, **schedule[1])
        again.load_state_dict(states["schedule"])
        other.load_state_dict(states["optimizer"])
    elif how == "built between":
        other.load_state_dict(states["optimizer"])
        again = build(other, **schedule[1])
        again.load_state_dict(states["schedule"])
    elif how == "last_step":
        other.load_state_dict(states["optimizer"])
        again = build(other, **schedule[1], last_step=before - 1)
    else:
        again = pickle.loads(pickle.dumps(scheduler))
        other = again.optimizer
    assert again.last_epoch == before
    assert [g["initial_lr"] for g in other.param_groups] == rates
    assert run(other, again, 12) == expected[before:]


@pytest.mark.parametrize("cls", [torch.optim.AdamW, tw.AdamW])
def test_weights_go_on_bit_for_bit(cls):
    def build():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        optimizer = cls(tw.param_groups(model, lr=0.1, layer_decay=0.5, weight_decay=0.1))
        return model, optimizer, schedules.wsd(optimizer, 20, 3, 0.5)

    def train(model, optimizer, schedule, steps):
        for t in steps:
            torch.manual_seed(t)
            optimizer.zero_grad()
            model(torch.randn(3, 4)).square().mean().backward()
            optimizer.step()
            schedule.step()
        return [param.detach().clone() for param in model.parameters()]

    whole = train(*build(), range(20))
    first = build()
    train(*first, range(13))
    states = saved([part.state_dict() for part in first])
    second = build()
    for part, state in zip(second, states, strict=True):
        part.load_state_dict(state)
    for a, b in zip(train(*second, range(13, 20)), whole, strict=True):
        assert torch.equal(a, b)


def test_torchs_own_takes_a_step_at_the_wrong_rate():
    """What `load_state_dict` is for; once torch does it, `Schedule` may be a `LambdaLR`."""
    optimizer = optimizer_of(torch.optim.SGD, [1.0])
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 / (1 + t))
    run(optimizer, scheduler, 3)
    other = optimizer_of(torch.optim.SGD, [1.0])
    other.load_state_dict(optimizer.state_dict())
    again = torch.optim.lr_scheduler.LambdaLR(other, lambda t: 1 / (1 + t))
    again.load_state_dict(scheduler.state_dict())
    assert rates_of(other) == [1.0] != rates_of(optimizer)


def test_a_stable_phase_is_made_longer():
    optimizer = optimizer_of(tw.SGD, [0.5, 0.1])
    run(optimizer, schedules.wsd(optimizer, 10, 2, 4), 6)
    longer = optimizer_of(tw.SGD, [0.5, 0.1])
    longer.load_state_dict(saved(optimizer.state_dict()))
    rates = run(longer, schedules.wsd(longer, 20, 2, 4, last_step=5), 16)
    factors = [schedules.wsd_factor(t, 20, 2, 4) for t in range(6, 22)]
    assert rates == [[0.5 * factor, 0.1 * factor] for factor in factors]


def test_numbers_of_the_checkpoint_take_the_place_of_those_given():
    optimizer = optimizer_of(tw.SGD, [1.0])
    scheduler = schedules.linear(optimizer, 10)
    run(optimizer, scheduler, 4)
    other = optimizer_of(tw.SGD, [1.0])
    again = schedules.cosine(other, 99, 3, end=0.5)
    again.load_state_dict(saved(scheduler.state_dict()))
    assert run(other, again, 8) == [[schedules.linear_factor(t, 10)] for t in range(4, 12)]
    assert schedules.cosine_factor(0, 99, 3) == 0.25  # others are as they were


def test_what_cannot_be_loaded_changes_nothing():
    optimizer = optimizer_of(tw.SGD, [1.0, 2.0])
    scheduler = schedules.linear(optimizer, 10, 3)
    before = copy.deepcopy(scheduler.state_dict())
    stairs = schedules.staircase(optimizer_of(tw.SGD, [1.0, 2.0]), 3)
    one = schedules.linear(optimizer_of(tw.SGD, [1.0]), 10, 3)
    theirs = torch.optim.lr_scheduler.StepLR(optimizer_of(tw.SGD, [1.0, 2.0]), 3)
    for state, message in (
        (stairs.state_dict(), "not of this kind of schedule, which has steps, warmup, decay, end, shape"),
        (theirs.state_dict(), "not of this kind of schedule"),
        (one.state_dict(), "the state is of 1 parameter groups; the optimizer has 2"),
    ):
        with pytest.raises(ValueError, match=message):
            scheduler.load_state_dict(state)
        assert scheduler.state_dict() == before
        assert rates_of(optimizer) == [0.25, 0.5]


def test_going_on_without_a_checkpoint_is_refused():
    with pytest.raises(KeyError, match="initial_lr"):
        schedules.linear(optimizer_of(tw.SGD, [1.0]), 10, last_step=3)


def test_they_are_torchs_and_work_in_a_sequence():
    optimizer = optimizer_of(torch.optim.SGD, [1.0])
    first, second = schedules.linear(optimizer, 8, 4), schedules.cosine(optimizer, 8)
    assert isinstance(first, torch.optim.lr_scheduler.LambdaLR)
    both = torch.optim.lr_scheduler.SequentialLR(optimizer, [first, second], milestones=[4])
    rates = run(optimizer, both, 8)
    factors = [schedules.linear_factor(t, 8, 4) for t in range(4)]
    assert rates == [[x] for x in [*factors, *(schedules.cosine_factor(t, 8) for t in range(4))]]


@pytest.mark.parametrize(
    ("name", "kwargs", "error", "message"),
    [
        ("linear", {"steps": 0}, ValueError, "steps must be an int of at least 1, not 0"),
        ("linear", {"steps": 9.0}, TypeError, r"steps must be an int of at least 1, not 9\.0"),
        ("linear", {"steps": True}, TypeError, "steps must be an int"),
        (
            "linear",
            {"steps": 9, "warmup": 10},
            ValueError,
            r"warmup must be an int from 0 to steps=9, or a fl",
        ),
        ("linear", {"steps": 9, "warmup": -1}, ValueError, r"warmup must be .* not -1"),
        (
            "linear",
            {"steps": 9, "warmup": 1.0},
            ValueError,
            r"a float in \[0, 1\), a share of steps, not 1\.0",
        ),
        ("linear", {"steps": 9, "warmup": "1"}, TypeError, "warmup must be .* not '1'"),
        ("linear", {"steps": 9, "warmup": float("nan")}, ValueError, "warmup must be .* not nan"),
        ("cosine", {"steps": 9, "end": 1.5}, ValueError, r"end must be a number in \[0, 1\], not 1\.5"),
        ("cosine", {"steps": 9, "end": None}, TypeError, r"end must be a number in \[0, 1\], not None"),
        ("wsd", {"steps": 9, "warmup": 5, "decay": 5}, ValueError, "no more than all steps, not 5 . 5 of 9"),
        ("wsd", {"steps": 9, "shape": "sqrt"}, ValueError, "shape must be 'linear' or '1-sqrt' or 'cosine'"),
        ("staircase", {"every": 0}, ValueError, "every must be a number above 0, not 0"),
        ("staircase", {"every": float("inf")}, ValueError, "every must be a number above 0"),
        ("staircase", {"every": 1, "factor": 0}, ValueError, r"factor must be a number in \(0, 1\], not 0"),
        ("staircase", {"every": 1, "warmup": 0.1}, TypeError, "warmup must be an int of at least 0, not 0.1"),
    ],
)
def test_arguments_that_are_refused(name, kwargs, error, message):
    build, factor = SCHEDULES[name]
    optimizer = optimizer_of(tw.SGD, [1.0])
    with pytest.raises(error, match=message):
        build(optimizer, **kwargs)
    with pytest.raises(error, match=message):
        factor(0, **kwargs)
    assert "initial_lr" not in optimizer.param_groups[0]


def test_steps_that_are_refused():
    with pytest.raises(ValueError, match="step must be an int of at least 0, not -1"):
        schedules.linear_factor(-1, 3)
    with pytest.raises(ValueError, match="last_step must be an int of at least -1, not -2"):
        schedules.linear(optimizer_of(tw.SGD, [1.0]), 3, last_step=-2)
    with pytest.raises(TypeError, match=r"optimizer must be a torch\.optim\.Optimizer, not list"):
        schedules.linear([], 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "code", re.findall(r"```python\n(.*?)```", (DOCS / "schedules.md").read_text(), re.DOTALL)
)
def test_examples_of_the_docs_run(code):
    exec(compile(code, "docs/schedules.md", "exec"), {})
