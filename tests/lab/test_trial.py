import math
import random
from dataclasses import replace
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pytest
import torch
from samples import Line
from torch import nn

from thalweg.lab import spaces
from thalweg.lab.running.schedules import schedule
from thalweg.lab.running.trial import run, run_checked
from thalweg.lab.study.record import Trial
from thalweg.lab.workload import Evaluation


def trial(name="adamw", stage="final", seed=7, **settings) -> Trial:
    space = spaces.find(name)
    settings = {"lr": 0.05, **settings}
    return Trial(stage, name, space.optimizer, settings, {space.axes[0].name: settings["lr"]}, seed)


ADAMW = trial()


# The schedule


def test_schedule_climbs_and_falls_linearly():
    factors = [schedule(step, 40) for step in range(1, 41)]
    assert factors[:2] == [0.5, 1.0]
    assert factors[-1] == pytest.approx(1 / 39)
    falls = [a - b for a, b in pairwise(factors[1:])]
    assert falls == pytest.approx([1 / 39] * 38)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 1000])
def test_schedule_is_never_zero_and_reaches_one(steps):
    factors = [schedule(step, steps) for step in range(1, steps + 1)]
    assert max(factors) == 1
    assert min(factors) > 0
    assert factors.index(1.0) == max(1, round(0.05 * steps)) - 1


class Recording(torch.optim.SGD):
    """Notes the rate and the gradient of every step."""

    seen: ClassVar[list[tuple[float, torch.Tensor]]] = []

    def step(self, closure=None):
        gradient = torch.cat([p.grad.flatten() for p in self.param_groups[0]["params"]])
        self.seen.append((self.param_groups[0]["lr"], gradient.clone()))
        return super().step(closure)


@pytest.fixture
def seen(monkeypatch):
    monkeypatch.setattr(Recording, "seen", [])
    return lambda: Recording.seen


RECORDING = replace(trial(), optimizer=f"{__name__}.Recording", settings={"lr": 0.1})


def test_every_step_takes_the_scheduled_rate(seen):
    run(RECORDING, Line())
    assert [rate for rate, _ in seen()] == [0.1 * schedule(step, 40) for step in range(1, 41)]


def test_gradients_are_clipped_to_the_norm_that_the_workload_states(seen):
    class Clipped(Line):
        clip_norm = 0.5

    run(RECORDING, Line(scale=10))
    free = [gradient.norm().item() for _, gradient in seen()]
    seen().clear()
    run(RECORDING, Clipped(scale=10))
    clipped = [gradient.norm().item() for _, gradient in seen()]
    assert max(free) > 0.6
    assert max(clipped) == pytest.approx(0.5, abs=1e-4)


def test_another_packages_optimizer_trains_as_well(seen):
    record = run(RECORDING, Line())
    assert record.failure is None
    assert record.validation.metric < record.curve[0].metric
    torchs = run(replace(ADAMW, optimizer="torch.optim.AdamW"), Line())
    ours = run(ADAMW, Line())
    assert torchs.validation.metric == pytest.approx(ours.validation.metric, rel=1e-3)


# Repeating


def test_a_record_can_be_repeated_bit_for_bit():
    assert run(ADAMW, Line()) == run(ADAMW, Line())
    assert repr(run(ADAMW, Line()).curve) == repr(run(ADAMW, Line()).curve)


def test_another_seed_gives_another_record():
    assert run(ADAMW, Line()).curve != run(trial(seed=8), Line()).curve


class Dropping(Line):
    """Draws random numbers while it trains, and `extra` of them while it is made."""

    def __init__(self, extra: int = 0) -> None:
        super().__init__()
        self.extra = extra

    def model(self, seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            linear = nn.Linear(2, 1)
        torch.rand(self.extra)
        return nn.Sequential(nn.Dropout(0.3), linear)


def test_what_a_model_draws_while_it_trains_is_fixed_by_the_seed():
    torch.manual_seed(1)
    first = run(ADAMW, Dropping())
    torch.manual_seed(2)
    assert run(ADAMW, Dropping()) == first
    assert run(ADAMW, Dropping(extra=5)).curve == first.curve
    assert first.curve != run(ADAMW, Line()).curve


def test_a_run_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    run(ADAMW, Line())
    assert torch.equal(torch.rand(4), expected)


# What is measured


def test_curve_goes_from_before_the_first_step_to_the_last():
    record = run(ADAMW, Line())
    assert [point.step for point in record.curve] == [0, 8, 16, 24, 32, 40]
    assert record.curve[0].loss is None
    assert record.curve[-1].metric == record.validation.metric
    assert record.curve[-1].loss < record.curve[1].loss


def test_the_last_step_is_evaluated_wherever_it_falls():
    class Odd(Line):
        evaluate_every = 17

    record = run(ADAMW, Odd())
    assert [point.step for point in record.curve] == [0, 17, 34, 40]
    assert len(record.timing.at) == 4
    assert list(record.timing.at) == sorted(record.timing.at)


def test_only_final_runs_see_the_test_split_and_once():
    splits = []

    class Spy(Line):
        def evaluate(self, model, split):
            splits.append(split)
            assert not model.training
            assert not torch.is_grad_enabled()
            return super().evaluate(model, split)

    for stage in ("tune", "extend", "confirm"):
        assert run(trial(stage=stage), Spy()).test is None
    assert set(splits) == {"validation"}
    splits.clear()
    assert run(ADAMW, Spy()).test is not None
    assert splits == ["validation"] * 6 + ["test"]


def test_evaluation_does_not_disturb_training():
    seen = []

    class Rare(Dropping):
        evaluate_every = 40

        def loss(self, model, batch):
            assert model.training
            return super().loss(model, batch)

        def evaluate(self, model, split):
            seen.append(split)
            return super().evaluate(model, split)

    assert run(ADAMW, Rare()).validation == run(ADAMW, Dropping()).validation


def test_state_is_counted_in_bytes():
    assert run(trial("sgd", momentum=0.0), Line()).state_bytes < 4 * 3
    assert 4 * 3 <= run(trial("sgd", momentum=0.9), Line()).state_bytes < 2 * 4 * 3
    assert run(ADAMW, Line()).state_bytes >= 2 * 4 * 3


def test_time_is_that_of_training_and_of_all():
    timing = run(ADAMW, Line()).timing
    assert 0 < timing.step_ms < 1000 * timing.seconds < 1000 * timing.total
    assert timing.at[0] == 0
    assert timing.at[-1] == pytest.approx(timing.seconds)


# Failures


def test_divergence_is_recorded_and_ends_the_run():
    record = run(trial("sgd", lr=0.5, momentum=0.9), Line(scale=1e4))
    assert record.failure.kind == "diverged"
    assert 1 < record.failure.step < Line.steps
    assert "training loss" in record.failure.text
    assert (record.validation, record.test) == (None, None)
    assert all(math.isfinite(point.metric) for point in record.curve)


class NotFinite(Line):
    """An evaluation of this split has a value that is not finite, once the model has been trained."""

    def __init__(self, split: str, **values: float) -> None:
        super().__init__()
        self.split, self.values = split, values

    def evaluate(self, model, split):
        evaluation = super().evaluate(model, split)
        trained = model.weight.grad is not None
        return evaluation._replace(**self.values) if trained and split == self.split else evaluation


@pytest.mark.parametrize("values", [{"loss": math.nan}, {"loss": math.inf}, {"metric": math.nan}])
def test_a_validation_that_is_not_finite_is_divergence(values):
    record = run(ADAMW, NotFinite("validation", **values))
    assert (record.failure.kind, record.failure.step) == ("diverged", Line.evaluate_every)
    assert record.validation is None
    assert [point.step for point in record.curve] == [0]


@pytest.mark.parametrize("values", [{"loss": math.inf}, {"metric": math.nan}])
def test_a_test_that_is_not_finite_is_divergence(values):
    record = run(ADAMW, NotFinite("test", **values))
    assert (record.failure.kind, record.failure.step) == ("diverged", Line.steps)
    assert (record.validation, record.test) == (None, None)


def test_finite_losses_whose_sum_is_not_are_divergence():
    class Huge(Line):
        def loss(self, model, batch):
            return super().loss(model, batch).double() * 0 + 1e308

    record = run(ADAMW, Huge())
    assert (record.failure.kind, record.failure.step) == ("diverged", Line.evaluate_every)


CPU_ALLOCATOR = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
    "allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)"
)
OUT_OF_MEMORY = [
    MemoryError(),
    MemoryError("Unable to allocate 3 GiB\nfor an array"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError(CPU_ALLOCATOR),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


class Raising(Line):
    """One of its methods raises an error, `loss` not at once."""

    def __init__(self, method: str, error: BaseException) -> None:
        super().__init__()
        self.method, self.error, self.calls = method, error, 0

    def _maybe(self, method: str) -> None:
        self.calls += method == self.method
        if method == self.method and (method != "loss" or self.calls == 3):
            raise self.error

    def model(self, seed):
        self._maybe("model")
        return super().model(seed)

    def batches(self, seed):
        self._maybe("batches")
        return super().batches(seed)

    def loss(self, model, batch):
        self._maybe("loss")
        return super().loss(model, batch)

    def evaluate(self, model, split):
        self._maybe("evaluate")
        return super().evaluate(model, split)


@pytest.mark.parametrize(
    "error", OUT_OF_MEMORY, ids=lambda error: f"{type(error).__name__}-{str(error)[:20]}"
)
def test_too_little_memory_is_a_recorded_failure(error):
    record = run(ADAMW, Raising("loss", error))
    assert (record.failure.kind, record.failure.step) == ("out of memory", 3)
    assert record.failure.text
    assert "\n" not in record.failure.text
    assert record.validation is None


@pytest.mark.parametrize("method", ["model", "batches", "evaluate"])
def test_too_little_memory_is_a_recorded_failure_wherever_it_shows(method):
    record = run(ADAMW, Raising(method, MemoryError("no more")))
    assert record.failure == ("out of memory", "no more", 0)
    assert record.trial == ADAMW


def test_an_allocation_that_cannot_be_met_is_a_recorded_failure():
    class Greedy(Line):
        def loss(self, model, batch):
            return super().loss(model, batch) + torch.empty(2**55, device="cpu").sum()

    assert run(ADAMW, Greedy()).failure.kind == "out of memory"


@pytest.mark.parametrize("method", ["model", "batches", "loss", "evaluate"])
def test_any_other_error_is_raised(method):
    with pytest.raises(RuntimeError, match="a shape is wrong"):
        run(ADAMW, Raising(method, RuntimeError("a shape is wrong")))


def test_a_workload_that_ends_early_is_an_error():
    class Short(Line):
        def batches(self, seed):
            yield from list(super().batches(seed))[:5]

    with pytest.raises(ValueError, match="gave 5 batches but states 40"):
        run(ADAMW, Short())


def test_more_batches_than_steps_are_not_drawn():
    class Endless(Line):
        def batches(self, seed):
            yield from super().batches(seed)
            raise AssertionError("one too many")

    assert run(ADAMW, Endless()) == run(ADAMW, Line())


class Choking(Line):
    """Its metric cannot be made of numbers that are not finite."""

    def evaluate(self, model, split):
        if not model.weight.isfinite().all() or model.weight.abs().max() > 1e4:
            raise ValueError("Input contains NaN, infinity or a value too large")
        return super().evaluate(model, split)


def test_what_a_task_raises_over_what_divergence_made_is_divergence():
    record = run(trial("sgd", lr=3.0), Choking())
    assert (record.failure.kind, record.failure.step) == ("diverged", Line.evaluate_every)
    assert "ValueError: Input contains NaN, infinity" in record.failure.text


def test_before_training_it_is_a_mistake():
    class Wrong(Line):
        def evaluate(self, model, split):
            raise ValueError("Input contains NaN")

    with pytest.raises(ValueError, match="contains NaN"):
        run(ADAMW, Wrong())


def test_a_metric_that_is_not_finite_is_told_by_its_name():
    class Undefined(Line):
        def evaluate(self, model, split):
            found = super().evaluate(model, split)
            return Evaluation(math.nan if model.weight.grad is not None else found.metric, found.loss)

    record = run(ADAMW, Undefined())
    assert record.failure.text == f"the validation error is nan after step {Line.evaluate_every}"


def test_a_metric_whose_square_is_no_number_is_divergence():
    class Huge(Line):
        def evaluate(self, model, split):
            found = super().evaluate(model, split)
            return Evaluation(1e200 if model.weight.grad is not None else found.metric, found.loss)

    record = run(ADAMW, Huge())
    assert record.failure.kind == "diverged"
    assert record.failure.text == f"the validation error is 1e+200 after step {Line.evaluate_every}"


# Chance


class Mixed(Line):
    """Draws from generators that are no tensor's."""

    def loss(self, model, batch):
        return super().loss(model, batch) * (np.random.rand() + random.random())


def test_numpys_and_pythons_generators_are_seeded_and_left_as_they_were():
    np.random.seed(1)
    random.seed(1)
    before = np.random.get_state()[1].tolist(), random.getstate()
    assert run(ADAMW, Mixed()) == run(ADAMW, Mixed())
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before
    assert run_checked(ADAMW, lambda: (Mixed(), None)).doubts == ()


class Unseeded(Line):
    def loss(self, model, batch):
        return super().loss(model, batch) * np.random.default_rng().random()


def test_what_no_seed_fixes_is_told():
    [doubt] = run_checked(ADAMW, lambda: (Unseeded(), None)).doubts
    assert doubt.kind == "repeat"
    assert "at step 1 the loss was" in doubt.text


class Remembered(Line):
    """Draws once in a process, as a cache of a module does, and by the seed of whichever run comes first."""

    memory: ClassVar[dict[str, float]] = {}

    def noise(self):
        if "noise" not in self.memory:
            self.memory["noise"] = random.random()
        return self.memory["noise"]


class InModel(Remembered):
    def model(self, seed):
        model = super().model(seed)
        nn.init.constant_(model.weight, self.noise())
        return model


class InLoss(Remembered):
    def loss(self, model, batch):
        return super().loss(model, batch) * self.noise()


@pytest.mark.parametrize("task", [InModel, InLoss])
def test_what_the_first_run_draws_for_all_is_told(task, monkeypatch):
    monkeypatch.setattr(Remembered, "memory", {})
    [doubt] = run_checked(ADAMW, lambda: (task(), None)).doubts
    assert doubt.kind == "repeat"
    assert "drew other random numbers when they were made again" in doubt.text
    assert run_checked(ADAMW, lambda: (task(), None)).doubts == ()


def test_a_model_that_was_trained_before_is_told():
    shared = nn.Linear(2, 1)

    class Shared(Line):
        def model(self, seed):
            return shared

    run(ADAMW, Shared())
    [doubt] = run(ADAMW, Shared()).doubts
    assert doubt.kind == "model"
    assert run(ADAMW, Line()).doubts == ()


def test_layers_that_learn_their_size_from_the_first_batch_are_trained():
    class Lazy(Line):
        def model(self, seed):
            return nn.LazyLinear(1)

    assert run(ADAMW, Lazy()) == run(ADAMW, Lazy())
    assert run(ADAMW, Lazy()).failure is None
