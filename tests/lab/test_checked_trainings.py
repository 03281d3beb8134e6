"""What the lab checks of trainings of one's own: divergence in their words, repeats, accidents, identity."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from samples import Line
from test_evidence import GOOD, SPACES, evidence, study
from torch import nn

from thalweg.lab import Axis, Evaluation, Recipe, Space
from thalweg.lab.comparing.identity import changed, identify
from thalweg.lab.running.parcel import Parcel, pack
from thalweg.lab.running.trial import run, run_checked
from thalweg.lab.study.record import Failure, Trial
from thalweg.lab.workload import tasks
from thalweg.lab.workload.adapters.function import FunctionTask
from thalweg.lab.workload.tasks import TaskError

TRIAL = Trial("tune", "sgd", "torch.optim.SGD", {"lr": 0.01}, {"lr": 0.01}, 3)


class Loop(Line):
    def training_loop(self, run):
        for batch in self.batches(run.seed):
            loss = run.update(self.loss(run.model, batch))
            if not np.isfinite(loss) or loss > 1e6:
                raise ValueError("the loss is not finite any more")
            yield loss * self.noise()

    def noise(self):
        return 1.0


class Unseeded(Loop):
    def noise(self):
        return np.random.default_rng().random()


def function(noise=0.0, wrong=""):
    def train(config):
        model = nn.Linear(1, 1)
        optimizer = config.optimizer(model.parameters())
        if wrong:
            raise ValueError(wrong)
        for step in range(config["steps"]):
            optimizer.zero_grad()
            loss = (model(torch.ones(4, 1)) ** 2).mean()
            loss.backward()
            optimizer.step()
            if loss.item() > 1e6:
                raise ValueError("Input contains NaN or infinity")
            config.report(step=step + 1, metric=loss.item() + noise * np.random.default_rng().random())

    return FunctionTask(train, steps=20, batch_size=4)


@pytest.mark.parametrize("task", [Loop(), function()], ids=["loop", "function"])
def test_what_a_training_of_ones_own_raises_over_divergence_is_divergence(task):
    record = run(replace(TRIAL, settings={"lr": 50.0}), task)
    assert record.failure.kind == "diverged"
    assert "ValueError: " in record.failure.text
    assert run(TRIAL, task).failure is None


@pytest.mark.parametrize(
    "raised",
    [
        lambda: math.exp(1e4),
        lambda: np.linalg.eigvals(np.full((2, 2), np.nan)),
        lambda: int(float("inf")),
        lambda: np.float64(1) / np.float64(0),
    ],
)
def test_what_programs_say_of_overflow_is_divergence(raised):
    class Perplexity(Line):
        def evaluate(self, model, split):
            if model.weight.grad is not None:
                with np.errstate(all="raise"):
                    raised()
            return super().evaluate(model, split)

    record = run(TRIAL, Perplexity())
    assert record.failure.kind == "diverged"
    assert "the task could make nothing of what training made" in record.failure.text


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (None, "None (NoneType)"),
        ("0.5", "'0.5' (str)"),
        (1 + 2j, "(1+2j) (complex)"),
        (True, "True (bool)"),
        (torch.tensor(True), "tensor(True) (Tensor)"),
        (torch.tensor(1 + 2j), "tensor(1.+2.j) (Tensor)"),
        (np.ones(2), "array([1., 1.]) (ndarray)"),
    ],
)
def test_a_metric_that_is_no_number_after_training_is_told_as_before(metric, words):
    class Late(Line):
        def evaluate(self, model, split):
            found = super().evaluate(model, split)
            return found if model.weight.grad is None else found._replace(metric=metric)

    with pytest.raises(TaskError) as error:
        run(TRIAL, Late())
    assert str(error.value).endswith(f"in evaluate on validation: metric is {words}, not a number")
    whole = Late()
    whole.evaluate = lambda model, split: Evaluation(metric, 1.0)
    with pytest.raises(TaskError, match="not a number"):
        tasks.smoke(tasks.check(whole))


@pytest.mark.parametrize("metric", [np.array([0.5]), np.float16(0.5), torch.tensor([[0.5]]), np.array(0.5)])
def test_arrays_of_one_number_are_metrics(metric):
    class One(Line):
        def evaluate(self, model, split):
            return Evaluation(metric, 1.0)

    tasks.smoke(tasks.check(One()))
    assert run(TRIAL, One()).validation == Evaluation(0.5, 1.0)


def test_a_number_that_no_float_holds_is_infinite():
    class Huge(Line):
        def evaluate(self, model, split):
            return Evaluation(1.0 if model.weight.grad is None else -(10**400), 1.0)

    assert run(TRIAL, Huge()).failure.text == "the validation error is -inf after step 8"


def test_before_the_first_step_it_is_a_mistake():
    with pytest.raises(ValueError, match="not finite"):
        run(TRIAL, function(wrong="is not finite"))


@pytest.mark.parametrize(
    ("make", "words"), [(Unseeded, "at step 1 the loss"), (lambda: function(1.0), "the first report's loss")]
)
def test_what_no_seed_fixes_is_told_of_them_too(make, words):
    [doubt] = run_checked(TRIAL, lambda: (make(), None)).doubts
    assert (doubt.kind, words in doubt.text) == ("repeat", True)


@pytest.mark.parametrize("make", [Loop, function])
def test_what_a_seed_fixes_is_not(make):
    assert run_checked(TRIAL, lambda: (make(), None)).doubts == ()


def test_a_recipe_has_its_own_copy_of_the_task(tmp_path):
    spaces = [Recipe("large", "sgd", batch_size=64).space(), Recipe("plain", "sgd").space()]
    pack(Line(), None, tmp_path / "workload.pickle", spaces)
    parcel = Parcel(tmp_path / "workload.pickle")
    large, space = parcel.unpack("large")
    assert (large.batch_size, dict(space.changes)) == (64, {})
    plain, space = parcel.unpack("plain")
    assert (plain.batch_size, space.name) == (Line.batch_size, "plain")
    assert parcel.unpack("unknown")[1] is None


def test_who_was_only_lost_is_not_behind():
    made = study({"sgd": GOOD, "adamw": [None] * len(GOOD)})
    assert evidence(made).relation(*SPACES) == "ahead"
    lost = [replace(r, failure=Failure("killed", "by somebody")) if r.failure else r for r in made.records]
    assert evidence(made.holding(lost)).relation(*SPACES) == "unresolved"


def parts(workload, *spaces):
    return identify(workload, None, spaces, [2, 2, None, 0]).parts


def maker(kind):
    return lambda params, lr: kind(params, lr=lr)


def test_records_depend_on_recipes_makers_closures_and_functions():
    plain = Recipe("one", "sgd").space()
    different = [
        parts(Line(), plain),
        parts(Line(), Recipe("one", "sgd", batch_size=64).space()),
        parts(Line(), Recipe("one", "sgd", schedule="cosine").space()),
        parts(Line(), replace(plain, closure=True)),
    ]
    assert all(a != b for place, a in enumerate(different) for b in different[:place])
    axes = (Axis("lr", 1e-3, 1.0),)
    before, after = (parts(Line(), Space("own", maker(k), axes)) for k in (torch.optim.SGD, torch.optim.Adam))
    assert changed(before, after) == "optimizer own changed"
    assert parts(Line(), Space("own", maker(torch.optim.SGD), axes)) == before
    assert (
        changed(*(parts(tasks.check(function(noise)), plain) for noise in (0.0, 0.5)))
        == "self.whole_run changed"
    )
