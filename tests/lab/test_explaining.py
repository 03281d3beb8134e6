"""What is measured beside a run: that it changes nothing, what it finds, and what it cannot."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from samples import study
from torch import nn

from thalweg.lab.landscape import Hessian, flat
from thalweg.lab.running import explaining
from thalweg.lab.running.checkpoints import Keeper, Place
from thalweg.lab.running.leave import Leave, credits
from thalweg.lab.running.sampling import sampled
from thalweg.lab.running.trial import run, run_on
from thalweg.lab.study import record as records
from thalweg.lab.study import why as whys
from thalweg.lab.study.record import Trial
from thalweg.lab.study.why import Found, Why
from thalweg.lab.workload import Evaluation, Workload

ALL = Leave(credit=1e9)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Task(Workload):
    """Lines through noise, with a net that draws and keeps running statistics."""

    name, title, metric = "lines", "lines", "loss"
    steps, evaluate_every, batch_size = 24, 8, 16
    dtype = torch.float32

    def __init__(self):
        self.made = []

    def model(self, seed):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1)
        ).to(self.dtype)

    def batches(self, seed):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(self.steps):
            x = torch.randn(self.batch_size, 4, generator=generator)
            yield x.to(self.dtype), (x.sum(1) + torch.randn(16, generator=generator)).to(self.dtype)

    def loss(self, model, batch):
        return (model(batch[0]).squeeze(-1) - batch[1]).square().mean()

    def evaluate(self, model, split):
        if not self.made or self.made[-1] is not model:
            self.made.append(model)
        loss = float(self.loss(model, next(self.batches(99))))
        return Evaluation(loss, loss)


def trial(optimizer="thalweg.SGD", **settings):
    name = optimizer.rpartition(".")[2].lower()
    settings = settings or {"lr": 0.05, "momentum": 0.9}
    return Trial("final", name, optimizer, settings, {"lr": settings["lr"]}, 5)


def bits(model):
    return [one.numpy().tobytes() for one in model.state_dict().values()]


@pytest.mark.parametrize("optimizer", ["thalweg.SGD", "torch.optim.AdamW"])
def test_a_run_is_the_same_with_and_without_bit_for_bit(optimizer):
    """Records, weights and running statistics."""
    task, found = Task(), []
    for leave in (None, ALL):
        record = run(trial(optimizer, lr=0.01), task, leave=leave)
        found += [record, bits(task.made[-1])]
    assert found[0] == found[2]
    assert found[1] == found[3]
    assert found[0].why is None
    assert found[2].why.missing == {}


def test_generators_and_gradients_are_left_alone(monkeypatch):
    seen = {}
    measure = explaining.Explaining.explain

    def watched(self):
        before = torch.get_rng_state(), [p.grad.clone() for p in self._params]
        why = measure(self)
        seen["same"] = torch.equal(before[0], torch.get_rng_state()) and all(
            torch.equal(a, p.grad) for a, p in zip(before[1], self._params, strict=True)
        )
        seen["training"] = self._training.model.training
        return why

    monkeypatch.setattr(explaining.Explaining, "explain", watched)
    run(trial(), Task(), leave=ALL)
    assert seen == {"same": True, "training": True}


def test_its_time_is_not_the_runs():
    record = run(trial(), Task(), leave=ALL)
    assert record.why.seconds > 0
    assert record.timing.seconds < record.timing.total


def test_what_it_finds_is_what_the_room_finds():
    task = Task()
    record = run(trial(lr=0.05, momentum=0.9, weight_decay=0.1), task, leave=ALL)
    why, model = record.why, task.made[-1]
    assert set(why.updates) == {name for name, _ in model.named_parameters()}
    assert all(0 < size < 1 for size in why.updates.values())
    assert why.rate == pytest.approx(0.05)
    assert why.bound == pytest.approx(2 * 1.9 / 0.05 - 0.1)
    assert why.steered == why.sharpness
    assert why.examples == 128
    assert why.noise > 0
    assert why.adaptive.value > 0
    assert why.trace.value > 0
    assert why.products <= explaining.MOST_PRODUCTS


def test_sharpness_is_that_of_the_weights_at_the_end():
    class Quadratic(Task):
        """A loss with the curvature 3 in each of two directions, whatever the batch."""

        def model(self, seed):
            torch.manual_seed(seed)
            return nn.Linear(2, 1, bias=False)

        def loss(self, model, batch):
            return 1.5 * model.weight.square().sum()

    why = run(trial("torch.optim.Adam", lr=0.01), Quadratic(), leave=ALL).why
    assert why.sharpness.value == pytest.approx(3)
    assert why.trace == pytest.approx((6, 0), abs=1e-5)
    assert why.noise == pytest.approx(0, abs=1e-9)
    assert why.bound == pytest.approx(38 / 0.01)


def test_a_loss_of_ones_own_in_place_of_a_step():
    class Own(Task):
        def training_step(self, run, batch):
            return run.update(self.loss(run.model, batch))

    why = run(trial(), Own(), leave=ALL).why
    assert "training_step" in why.missing["noise"]
    assert "training_step" in why.missing["curvature"]
    assert len(why.updates) == 6


def test_weights_too_coarse():
    class Half(Task):
        dtype = torch.bfloat16

    why = run(trial(), Half(), leave=ALL).why
    assert "bfloat16" in why.missing["curvature"]
    assert why.noise is not None


def test_sparse_gradients():
    class Sparse(Task):
        def model(self, seed):
            torch.manual_seed(seed)
            return nn.EmbeddingBag(10, 1, sparse=True)

        def loss(self, model, batch):
            return (model((batch[0].abs() * 4).long().clamp(max=9)).squeeze(-1) - batch[1]).square().mean()

    why = run(trial("thalweg.SGD", lr=0.05), Sparse(), leave=ALL).why
    assert why.noise > 0
    assert "\n" not in why.missing["curvature"]


def test_an_optimizer_without_a_known_bound():
    why = run(trial("thalweg.Lion", lr=1e-3), Task(), leave=ALL).why
    assert why.sharpness is not None
    assert why.bound is None
    assert "Lion" in why.missing["bound"]


def test_what_a_task_raises_ends_nothing():
    class Once(Task):
        calls = 0

        def loss(self, model, batch):
            self.calls += 1
            if self.calls > self.steps + 6:  # evaluations among them
                raise KeyError("only while it trains\nand no more")
            return super().loss(model, batch)

    record = run(trial(), Once(), leave=ALL)
    assert record.failure is None
    assert record.why.missing["noise"] == "'only while it trains\\nand no more'"


def test_without_time_it_says_so():
    why = run(trial(), Task(), leave=Leave(credit=-1e9)).why
    assert why.sharpness is None
    assert "20 % of the time" in why.missing["noise"]
    assert "no time" in why.missing["curvature"]


def test_only_final_runs_that_ended_are_measured():
    assert run(replace(trial(), stage="confirm"), Task(), leave=ALL).why is None
    assert run(trial("torch.optim.SGD", lr=1e30), Task(), leave=ALL).why is None


def test_credit_is_what_an_optimizers_runs_have_left():
    made = study({"sgd": [90.0, 91.0, 92.0], "adamw": [91.0, 92.0, 93.0]})
    seconds = {
        name: sum(r.timing.seconds for r in made.records if r.trial.name == name) for name in ("sgd", "adamw")
    }
    assert seconds["sgd"] > 0
    spent = [
        replace(r, why=Why(seconds=2.0)) if (r.trial.name, r.trial.stage) == ("sgd", "final") else r
        for r in made.records
    ]
    found = credits(made.holding(spent), 2)
    assert found["sgd"] == pytest.approx((0.2 * seconds["sgd"] - 6) / 2)
    assert found["adamw"] == pytest.approx(0.2 * seconds["adamw"] / 2)


def test_batches_are_of_different_orders_where_there_are_any():
    told = []
    first, second, third = sampled(Task(), 3, 3, told.append)
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(second[0], third[0])
    assert len(told) == 1

    class Fixed(Task):
        def batches(self, seed):
            return super().batches(0)

    one, two = sampled(Fixed(), 3, 2, told.append)
    whole = Fixed().batches(0)
    assert torch.equal(one[0], next(whole)[0])
    assert torch.equal(two[0], next(whole)[0])


@pytest.mark.parametrize("is_watched", [True, False])
def test_a_run_that_goes_on_from_a_checkpoint_is_measured_as_one_that_was_not_cut_off(is_watched, tmp_path):
    class Cut(Task):
        losses = 0

        def loss(self, model, batch):
            self.losses += 1
            if self.losses == 20:
                raise KeyboardInterrupt
            return super().loss(model, batch)

    def goes_on(make, leave):
        keeper = Keeper(
            Place(tmp_path / "checkpoints", "lines", every=0.0), trial(), torch.device("cpu"), print
        )
        return run_on(trial(), lambda: (make(), None), keeper=keeper, leave=leave)

    whole = run_on(trial(), lambda: (Task(), None), leave=ALL)
    with pytest.raises(KeyboardInterrupt):
        goes_on(Cut, ALL if is_watched else None)
    resumed = goes_on(Task, ALL)
    assert resumed == whole
    if is_watched:
        assert replace(resumed.why, seconds=0.0) == replace(whole.why, seconds=0.0)
    else:
        assert "begun without" in resumed.why.missing["updates"]


def test_records_keep_it_and_older_ones_are_without():
    record = run(trial(), Task(), leave=ALL)
    document = json.loads(json.dumps(records.to_json(record)))
    again = records.from_json(document)
    assert again.why == record.why
    assert again == record
    del document["why"]
    assert records.from_json(document).why is None
    later = {**whys.to_json(record.why), "of a later version": 1}
    assert whys.from_json(later) == record.why
    assert whys.from_json({}) == Why()
    assert whys.from_json(whys.to_json(Why(trace=Found(1.0, 0.5)))).trace == Found(1.0, 0.5)


def test_buffers_are_moved_back():
    """Each evaluation of the loss moves batch norm's statistics."""
    task = Task()
    record = run(trial(), task, leave=ALL)
    model = task.made[-1]
    assert int(model[1].num_batches_tracked) == task.steps
    assert math.isfinite(record.why.sharpness.value)
    model.train()
    losses = [lambda b=b: task.loss(model, b) for b in task.batches(1)]
    assert Hessian(list(model.parameters()), losses[:2]).size == flat(list(model.parameters())).numel()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux")
def test_memory_that_a_parent_held_is_not_a_childs():
    asks = "from thalweg.lab.running.memory import peak; print(peak())"
    runs = f"subprocess.run([sys.executable, '-c', {asks!r}], check=True)"
    code = f"import subprocess, sys; held = b'1' * (2 << 30); {runs}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 10e6 < int(done.stdout) < 1.5e9
