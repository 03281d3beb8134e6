"""The range test: what it reads off a curve, a climb on a task, and that a user's own model comes back."""

import json
import math
import random
import re

import numpy as np
import pytest
import torch
from samples import Line
from torch import nn

import thalweg as tw
from thalweg.cli import main
from thalweg.lab import find_rate, rate, spaces
from thalweg.lab.sweeping.rate import api
from thalweg.lab.sweeping.rate.curve import FEWEST, Course, Sweep, geometric, smooth
from thalweg.lab.sweeping.rate.found import Found
from thalweg.lab.sweeping.rate.picture import course
from thalweg.lab.sweeping.rate.restoring import restored
from thalweg.lab.sweeping.rate.runs import at_rate, searched, sweep
from thalweg.lab.workload.adapters import FunctionTask
from thalweg.lab.workload.chance import seed_all

RATES = geometric(1e-5, 1e1, 240)
ADAMW = spaces.find("adamw")


def climbed(loss, rates=RATES) -> Sweep:
    """A sweep in which the loss after the step with a rate is a function of the rate."""
    made, after = Course(rates), loss(rates[0])
    for rate_ in rates:
        if not made.goes_on(after):
            break
        after = loss(rate_)
    return made.sweep(0)


def valley(rate_: float, at: float = 1e-2) -> float:
    """Two before anything is learned, one at `at`, and beyond all bounds a decade above it."""
    x = math.log10(rate_ / at)
    return 2 - math.exp(-(x**2)) + (100 ** max(0.0, x - 0.5) - 1) ** 2


# What is read off a curve


def test_half_of_the_rate_at_the_lowest_loss_is_suggested():
    found = climbed(valley)
    assert found.lowest == pytest.approx(1e-2, rel=0.1)
    assert found.suggested == found.lowest / 2


def test_it_is_undone_where_the_loss_is_back_above_its_start():
    found = climbed(valley)
    back = next(rate_ for rate_ in RATES if rate_ > 1e-2 and valley(rate_) > 2)
    assert back <= found.undone <= back * (RATES[1] / RATES[0]) ** 6


def test_a_loss_that_is_not_finite_undoes_at_the_rate_of_the_step_before_it():
    found = climbed(lambda rate_: math.inf if rate_ >= 0.03 else valley(rate_))
    assert found.undone == next(rate_ for rate_ in RATES if rate_ >= 0.03)
    assert all(map(math.isfinite, found.losses))


@pytest.mark.parametrize("shift", [-50.0, 0.0, 1e4])
def test_losses_of_any_level_and_sign_give_the_same_rates(shift):
    found = climbed(lambda rate_: valley(rate_) + shift)
    moved = Sweep(0, found.rates, [loss - shift for loss in found.losses], 2.0, 0.0, None)
    assert found.lowest == pytest.approx(moved.lowest, rel=0.06)


@pytest.mark.parametrize(
    ("loss", "why"),
    [
        (lambda rate_: 2.0, "does not fall"),
        (lambda rate_: 2 - math.log10(rate_ / 1e-5), "still falls"),
        (lambda rate_: 2.0 if rate_ < 1.3e-5 else math.nan, "too soon"),
    ],
)
def test_a_curve_that_says_nothing_suggests_nothing_and_says_why(loss, why):
    found = climbed(loss)
    assert (found.suggested, found.lowest) == (None, None)
    assert why in found.why


def test_noise_before_anything_is_learned_does_not_end_a_sweep():
    draws = np.random.default_rng(0)
    for _ in range(20):
        assert climbed(lambda rate_: 2 + draws.normal()).undone is None


def test_smoothing_keeps_a_line_and_does_not_lag():
    x = np.linspace(0, 3, 50)
    assert smooth(x, 2 * x - 1) == pytest.approx(2 * x - 1)
    bump = np.exp(-((x - 1.5) ** 2) / 0.1)
    assert x[smooth(x, bump).argmax()] == pytest.approx(1.5, abs=0.05)


# Over the seeds


def of(*sweeps: Sweep, **more) -> Found:
    return Found(sweeps, 1e-5, 10.0, 240, "AdamW", "task", **more)


def test_intervals_are_those_of_the_mean_logarithm():
    found = of(*(climbed(lambda rate_, at=at: valley(rate_, at)) for at in (1e-2, 2e-2, 5e-2)))
    logs = [math.log(one.suggested) for one in found.sweeps]
    half = 4.302653 * np.std(logs, ddof=1) / math.sqrt(3)  # Student's t, 97.5 %, 2 degrees of freedom
    assert math.log(found.suggested.mean) == pytest.approx(np.mean(logs))
    assert math.log(found.suggested.low) == pytest.approx(np.mean(logs) - half, rel=1e-5)
    assert math.log(found.suggested.high) == pytest.approx(np.mean(logs) + half, rel=1e-5)
    assert "95 % interval" in found.sentence


def test_there_is_no_interval_where_a_seed_has_no_such_rate():
    found = of(climbed(valley), climbed(valley), climbed(lambda rate_: min(valley(rate_), 1.9)))
    assert (found.undone.low, found.undone.high) == (None, None)
    assert "on 2 of 3, and not up to 10 on the others" in found.sentence
    assert of(climbed(valley)).suggested.low is None


def test_without_any_rate_the_answer_says_so():
    found = of(climbed(lambda rate_: 2.0))
    assert found.headline == "No learning rate for AdamW can be read off"
    assert "The loss does not fall" in found.sentence
    assert course(found).title == "The loss against the rate suggests none"
    assert "none" in found.table()
    assert json.dumps(found.to_dict(), allow_nan=False)


# On a task


def test_a_climb_has_the_runs_weights_batches_and_a_geometric_rate():
    """Against a loop by hand."""
    task, rates = Line(), geometric(1e-3, 10.0, 40)
    found = sweep(task, ADAMW, 1e-3, 10.0, 40, seed=3)
    torch.manual_seed(3)
    model = task.model(3)
    optimizer = tw.AdamW(model.parameters(), lr=1.0)
    losses = []
    for rate_, batch in zip(rates, task.batches(3), strict=True):
        optimizer.param_groups[0]["lr"] = rate_
        optimizer.zero_grad()
        loss = task.loss(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    n = len(found.losses)
    assert n >= FEWEST
    assert found.losses == pytest.approx(losses[1 : n + 1], rel=1e-4)
    assert found.rates == rates[:n]


def test_rates_of_an_optimizer_that_is_searched_by_another_name():
    sgd = spaces.find("sgd")
    assert searched(sgd) == (1e-4, 1.0)  # lr / (1 - momentum) from 1e-3 to 10, at momentum 0.9
    assert at_rate(sgd, 0.5) == {"lr": 0.5, "momentum": 0.9}


def test_equal_seeds_give_equal_answers_and_generators_stay():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, second = (rate(Line(), "sgd", seeds=2, progress=False) for _ in range(2))
    assert first.to_dict() == second.to_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert first.suggested is not None
    assert first.sweeps[0].seed != first.sweeps[1].seed


class Broken(Line):
    def loss(self, model, batch):
        raise RuntimeError("no luck")


@pytest.mark.parametrize(
    ("task", "arguments", "named"),
    [
        (Line(), {"optimizer": "adamx"}, ["optimizer", "'adamx'", "adamw"]),
        (Line(), {"low": 0.1, "high": 0.01}, ["low", "high", "0.1", "0.01"]),
        (Line(), {"low": 0.0}, ["low", "above 0", "0"]),
        (Line(), {"high": math.inf}, ["high", "finite", "inf"]),
        (Line(), {"steps": 5}, ["steps", str(FEWEST), "5"]),
        (Line(), {"steps": 41}, ["steps", "40", "41"]),
        (Line(), {"seeds": 0}, ["seeds", "1", "0"]),
        (Line(), {"seed": -1}, ["seed", "-1"]),
        (FunctionTask(lambda config: None, steps=40, batch_size=1), {}, ["find_rate"]),
        (Broken(), {}, ["no luck"]),
    ],
)
def test_bad_arguments_are_named(task, arguments, named):
    with pytest.raises((ValueError, RuntimeError)) as error:
        rate(task, **arguments, progress=False)
    assert all(name in str(error.value) for name in named), error.value


def test_ctrl_c_keeps_the_seeds_that_ended(monkeypatch):
    made = []

    def interrupted(*arguments):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(sweep(*arguments))
        return made[-1]

    monkeypatch.setattr(api, "sweep", interrupted)
    found = rate(Line(), seeds=5, progress=False)
    assert len(found.sweeps) == 2
    assert "Ended after 2 of 5 seeds" in found.conditions


def run(capsys, *arguments) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main(["rate", *arguments])
    return exit_.value.code, *capsys.readouterr()


def test_the_command(capsys, task_file, tmp_path):
    path, page = str(task_file(more="\nSmall.steps = 100\n")), tmp_path / "new" / "rate.html"
    code, out, err = run(capsys, path, "--optimizer", "torch.optim.SGD", "--seeds", "2", "--out", str(page))
    assert code == 0
    assert re.search(r"^seed +suggested lr +lowest loss at +undone at", out)
    assert "A learning rate for torch.optim.SGD: " in out
    assert "seed 2 of 2: suggests" in err
    assert "half of the rate at which the smoothed loss is lowest" in page.read_text()
    code, out, _ = run(capsys, path, "--seeds", "2", "--json", "--from", "1e-3", "--to", "1")
    assert (code, json.loads(out)["from"], len(json.loads(out)["sweeps"])) == (0, 1e-3, 2)


def test_without_any_rate_the_command_ends_with_status_1(capsys, task_file):
    code, out, err = run(capsys, str(task_file()), "--seeds", "1", "--from", "1e-9", "--to", "1e-8")
    assert code == 1
    assert "No learning rate for AdamW can be read off." in out
    assert err.splitlines()[-1] == "thalweg: no learning rate can be read off"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["mnist"], ["'mnist'", "digits"]),
        (["digits", "--from", "1", "--to", "0.1"], ["--from must be below --to"]),
        (["digits", "--steps", "400"], ["--steps", "352"]),
        (["digits", "--optimizer", "adamx"], ["--optimizer", "'adamx'"]),
        (["digits", "--out", "rate.png"], ["--out", ".html"]),
    ],
)
def test_the_command_refuses_in_one_line(capsys, arguments, named):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"thalweg: [^\n]+\n", err)
    assert all(name in err for name in named), err


# On the user's own, which comes back bit for bit


class Model(nn.Module):
    """Everything that training may leave on a model."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 1)
        self.frozen = nn.Linear(6, 6)
        self.frozen.eval().requires_grad_(False)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("repeated", torch.ones(1).expand(3))
        self.calls, self.last_input = 0, torch.zeros(1)

    def forward(self, x):
        self.calls += 1
        self.last_input, self.seen = x, self.seen + 1  # another tensor each time
        return self.last(self.drop(self.frozen(self.norm(self.first(x)))))


def loss_of(model):
    return lambda: (
        (model(torch.randn(8, 4) * (1 + random.random())) - float(np.random.rand())).square().mean()
    )


def trained(make):
    """A model that has been trained for three steps, with gradients, its optimizer and a scheduler."""
    seed_all(0)
    model = Model()
    optimizer = make(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    loss = loss_of(model)
    for _ in range(3):

        def closure():
            optimizer.zero_grad()
            value = loss()
            value.backward()
            return value

        optimizer.step(closure)
        scheduler.step()
    return model, optimizer, scheduler


def bits(value):
    """All that is in a value, tensors as bytes, to be compared exactly."""
    if isinstance(value, torch.Tensor):
        held = value.detach()
        grad = bits(value.grad) if value.is_leaf and value.grad is not None else None
        return id(value), held.data_ptr(), held.contiguous().view(-1).view(torch.uint8).tolist(), grad
    if isinstance(value, dict):
        return [
            (id(key) if isinstance(key, torch.Tensor) else key, bits(part)) for key, part in value.items()
        ]
    if isinstance(value, list | tuple):
        return [bits(part) for part in value]
    return repr(value)


def everything(model, optimizer, scheduler):
    return {
        "model": [(bits(m._parameters), bits(m._buffers), m.training) for m in model.modules()],
        "attributes": (model.calls, bits(model.last_input)),
        "state": bits(dict(optimizer.state)),
        "groups": bits(optimizer.param_groups),
        "optimizer": {key: id(value) for key, value in vars(optimizer).items()},
        "scheduler": repr(scheduler.state_dict()),
        "torch": torch.get_rng_state().tolist(),
        "numpy": repr(np.random.get_state()),
        "python": random.getstate(),
    }


OPTIMIZERS = {
    "AdamW": lambda m: tw.AdamW(m.parameters(), lr=1e-2),
    "fresh": lambda m: tw.SGD(m.parameters(), lr=1e-2, momentum=0.9),
    "int8": lambda m: tw.AdamW(m.parameters(), lr=1e-2, state="int8", average=0.9, skip_nonfinite=1),
    "groups": lambda m: tw.RMSprop(
        [{"params": m.first.parameters()}, {"params": m.last.parameters(), "lr": 1}]
    ),
    "SAM": lambda m: tw.SAM(tw.SGD(m.parameters(), lr=1e-2, momentum=0.9)),
    "torch": lambda m: torch.optim.Adam(
        m.parameters(), lr=torch.tensor(1e-2), capturable=False, foreach=False
    ),
    "LBFGS": lambda m: torch.optim.LBFGS(m.parameters(), lr=1e-2, max_iter=2),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_all_is_as_it_was_bit_for_bit(name):
    made = trained(OPTIMIZERS[name])
    model, optimizer, _ = made
    if name == "fresh":
        optimizer.state.clear()
    before = everything(*made)
    found = find_rate(model, optimizer, loss_of(model), steps=40, repeats=2)
    assert everything(*made) == before
    assert len(found.sweeps) == 2
    assert len(found.sweeps[0].rates) >= 5
    assert getattr(optimizer, "skipped_steps", 0) == 0


class Late:
    """A loss that raises an error at its 7th call."""

    def __init__(self, loss, error) -> None:
        self.loss, self.error, self.calls = loss, error, 0

    def __call__(self):
        self.calls += 1
        if self.calls == 7:
            raise self.error
        return self.loss()


@pytest.mark.parametrize("error", [RuntimeError("no luck"), KeyboardInterrupt()])
def test_all_is_as_it_was_after_an_error_too(error):
    made = trained(OPTIMIZERS["AdamW"])
    before = everything(*made)
    with pytest.raises(type(error)):
        find_rate(made[0], made[1], Late(loss_of(made[0]), error))
    assert everything(*made) == before


@pytest.mark.parametrize("name", ["AdamW", "int8"])
def test_training_goes_on_as_if_nothing_had_been(name):
    ends = []
    for tested in (False, True):
        model, optimizer, _ = trained(OPTIMIZERS[name])
        if tested:
            find_rate(model, optimizer, loss_of(model), steps=30)
        seed_all(1)
        loss = loss_of(model)
        for _ in range(4):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
        ends.append(bits_of_weights(model))
    assert ends[0] == ends[1]


def bits_of_weights(model):
    return [value.contiguous().view(-1).view(torch.uint8).tolist() for value in model.state_dict().values()]


def test_memory_that_training_exchanged_comes_back():
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    place, weight = model.weight.data_ptr(), model.weight.detach().clone()
    with restored(model, optimizer):
        model.weight.data = torch.zeros(2, 2)
        model.bias = nn.Parameter(torch.ones(2))
    assert model.weight.data_ptr() == place
    assert torch.equal(model.weight, weight)
    assert model.bias is optimizer.param_groups[0]["params"][1]


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"steps": 3}, ValueError, "steps"),
        ({"repeats": 0}, ValueError, "repeats"),
        ({"low": 1.0, "high": 1.0}, ValueError, "low must be below high"),
        ({"loss": 3}, TypeError, "loss"),
        ({"loss": lambda: 3.0}, TypeError, "loss must return a scalar tensor"),
        ({"loss": lambda: torch.zeros(())}, TypeError, "to differentiate"),
        ({"optimizer": 3}, TypeError, "optimizer"),
        ({"model": nn.LazyLinear(3)}, ValueError, "first batch"),
    ],
)
def test_what_cannot_be_tested_is_named_and_left(change, error, named):
    made = trained(OPTIMIZERS["AdamW"])
    before = everything(*made)
    arguments = {"model": made[0], "optimizer": made[1], "loss": loss_of(made[0]), **change}
    with pytest.raises(error, match=named):
        find_rate(**arguments)
    assert everything(*made) == before
