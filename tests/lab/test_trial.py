import math
from itertools import pairwise

import pytest
import torch
from samples import Line

from thalweg.lab import spaces
from thalweg.lab.trial import Trial, run, schedule

ADAMW = Trial("final", spaces.find("adamw"), 0.05, seed=7)


def test_schedule_climbs_and_falls_linearly():
    factors = [schedule(step, 40) for step in range(1, 41)]
    assert factors[:2] == [0.5, 1.0]
    assert factors[-1] == pytest.approx(1 / 39)
    falls = [a - b for a, b in pairwise(factors[1:])]
    assert falls == pytest.approx([1 / 39] * 38)


def test_every_step_takes_the_scheduled_rate():
    rates = []

    class Spy(Line):
        def loss(self, model, batch):
            rates.append(model.optimizer_rate())
            return super().loss(model, batch)

        def model(self, seed):
            model = super().model(seed)
            model.optimizer_rate = lambda: built[0].param_groups[0]["lr"]
            return model

    built = []

    class Space(spaces.Space):
        def build(self, parameters, lr):
            built.append(super().build(parameters, lr))
            return built[0]

    space = Space("sgd", "SGD", 1e-3, 1.0, "a test")
    run(Trial("tune", space, 0.1, 0), Spy())
    assert rates == [0.1 * schedule(step, 40) for step in range(1, 41)]


def test_a_record_can_be_repeated_bit_for_bit():
    assert run(ADAMW, Line()) == run(ADAMW, Line())


def test_another_seed_gives_another_record():
    assert run(ADAMW, Line()).curve != run(Trial("final", ADAMW.space, 0.05, 8), Line()).curve


def test_a_run_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    run(ADAMW, Line())
    assert torch.equal(torch.rand(4), expected)


def test_curve_goes_from_before_the_first_step_to_the_last():
    record = run(ADAMW, Line())
    assert [point.step for point in record.curve] == [0, 8, 16, 24, 32, 40]
    assert record.curve[0].loss is None
    assert record.curve[-1].metric == record.validation.metric
    assert record.curve[-1].loss < record.curve[1].loss


def test_only_final_runs_see_the_test_split():
    splits = []

    class Spy(Line):
        def evaluate(self, model, split):
            splits.append(split)
            return super().evaluate(model, split)

    assert run(Trial("tune", ADAMW.space, 0.05, 7), Spy()).test is None
    assert set(splits) == {"validation"}
    splits.clear()
    assert run(ADAMW, Spy()).test is not None
    assert splits.count("test") == 1
    assert splits[-1] == "test"


def test_divergence_is_recorded_and_ends_the_run():
    record = run(Trial("final", spaces.find("sgd"), 0.5, 0), Line(scale=1e4))
    assert 1 < record.diverged_at < Line.steps
    assert record.validation is None
    assert record.test is None
    assert all(math.isfinite(point.metric) for point in record.curve)


def test_a_validation_loss_that_is_not_finite_is_divergence():
    class Nan(Line):
        def evaluate(self, model, split):
            evaluation = super().evaluate(model, split)
            trained = model.weight.grad is not None
            return evaluation._replace(loss=math.nan) if trained else evaluation

    record = run(ADAMW, Nan())
    assert record.diverged_at == Line.evaluate_every
    assert record.validation is None


def test_state_is_counted_in_bytes():
    momentum = run(Trial("tune", spaces.find("sgd"), 0.01, 0), Line()).state_bytes
    assert momentum >= 4 * 3
    assert run(ADAMW, Line()).state_bytes >= 2 * 4 * 3


def test_a_workload_that_ends_early_is_an_error():
    class Short(Line):
        def batches(self, seed):
            yield from list(super().batches(seed))[:5]

    with pytest.raises(ValueError, match="gave 5 batches but states 40"):
        run(ADAMW, Short())
