from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from samples import Line

from thalweg.lab import spaces
from thalweg.lab.comparing import budget, group
from thalweg.lab.comparing.budget import MOST_SEEDS, MOST_TRIALS, START_SECONDS, buy, seconds, spread
from thalweg.lab.judging.statistics import fewest_seeds
from thalweg.lab.study.protocol import CANDIDATES, CONFIRMATION_SEEDS, extension, runs_at_least
from thalweg.lab.study.study import Settings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 90),
        ("90s", 90),
        ("10m", 600),
        ("1h30m", 5400),
        ("1h30", 5400),
        ("1h30s", 3630),
        ("10m30", 630),
        ("2h", 7200),
        (" 1h1m1s ", 3661),
        (90, 90.0),
        ("0h5m", 300),
    ],
)
def test_durations(text, expected):
    assert seconds(text, "--budget") == expected


@pytest.mark.parametrize("text", ["", "0", "0m", "m", "-5m", "1.5h", "5 m", "10x", "1m1h", "nan", "5min"])
def test_what_is_no_duration_is_an_error_that_names_it(text):
    with pytest.raises(ValueError, match="--budget: a duration looks like 90s, 10m or 1h30m, not") as caught:
        seconds(text, "--budget")
    assert repr(text) in str(caught.value)


@given(st.integers(0, 500), st.integers(6, 12))
@example(6, 7)
@example(8, 7)
@example(9, 7)
@example(0, 6)
def test_what_is_spread_was_bought_and_is_at_least_one_of_each(runs, fewest):
    trials, seeds = spread(runs, fewest)
    assert trials >= 1
    assert seeds >= 1
    if runs >= 2:
        assert runs_at_least(1, Settings(trials=trials, seeds=seeds)) <= runs
    if (trials, seeds) != (MOST_TRIALS, MOST_SEEDS) and runs >= 30:
        # One extension is paid for, and little is left.
        total = runs_at_least(1, Settings(trials=trials, seeds=seeds)) + extension(Settings(trials=trials))
        assert total <= runs
        assert seeds == MOST_SEEDS or trials == MOST_TRIALS or total >= runs - 2


@given(st.integers(0, 500), st.integers(6, 12))
def test_there_are_seeds_for_a_verdict_where_the_budget_allows(runs, fewest):
    trials, seeds = spread(runs, fewest)
    enough = fewest + CANDIDATES * CONFIRMATION_SEEDS + CANDIDATES + extension(Settings(trials=CANDIDATES))
    if runs >= enough:
        assert seeds >= fewest
        assert trials >= CANDIDATES


def test_no_more_is_spread_than_is_useful():
    assert spread(10**6, 7) == (MOST_TRIALS, MOST_SEEDS)


def test_a_budget_buys_what_fits_and_says_so():
    bought = buy([1.0, 2.0, 3.0], 300, workers=2)
    runs = (300 - START_SECONDS) * 2 / 1.15 / 6
    settings = Settings(trials=bought.trials, seeds=bought.seeds)
    assert runs_at_least(1, settings) + extension(settings) <= runs
    assert runs_at_least(1, settings) + extension(settings) >= runs - 3
    assert bought.seeds >= fewest_seeds(3)
    assert bought.text == (
        f"a budget of 5 min buys {bought.trials} configurations and up to {bought.seeds} seeds for each of "
        f"3 optimizers: at most {runs_at_least(3, settings)} runs of about 2 s, 2 at a time"
    )


def test_more_time_and_more_workers_buy_more():
    small, large = buy([1.0] * 3, 120, 1), buy([1.0] * 3, 240, 1)
    assert (small.trials, small.seeds) < (large.trials, large.seeds)
    two = buy([1.0] * 3, 120, 2)
    assert (two.trials, two.seeds) > (small.trials, small.seeds)


@pytest.mark.parametrize("total", [1, START_SECONDS, 6])
def test_a_budget_that_is_too_small_buys_the_least(total):
    bought = buy([10.0] * 3, total, 1)
    assert (bought.trials, bought.seeds) == (1, 1)


@pytest.mark.parametrize(
    ("total", "text"), [(90, "1 min 30 s"), (3600, "1 h"), (3661, "1 h 1 min 1 s"), (5, "5 s")]
)
def test_a_budget_is_said_in_words(total, text):
    assert buy([1.0] * 3, total, 1).text.startswith(f"a budget of {text} buys")


class Timed(Line):
    """A step takes 4 ms and an evaluation 50 ms by a clock of its own, however busy the machine is."""

    def __init__(self, steps: int, evaluate_every: int) -> None:
        super().__init__()
        self.steps, self.evaluate_every, self.now = steps, evaluate_every, 0.0

    def loss(self, model, batch):
        self.now += 0.004
        return super().loss(model, batch)

    def evaluate(self, model, split):
        self.now += 0.05
        return super().evaluate(model, split)


@pytest.mark.parametrize(
    ("steps", "evaluate_every", "cost"),
    [(200, 50, 200 * 0.004 + 5 * 0.05), (1000, 50, 1000 * 0.004 + 21 * 0.05), (3, 100, 3 * 0.004 + 2 * 0.05)],
)
def test_the_cost_of_a_run_is_estimated_from_a_short_one(monkeypatch, steps, evaluate_every, cost):
    timed = Timed(steps, evaluate_every)
    for module in ("trial", "course", "training"):
        clock = SimpleNamespace(perf_counter=lambda: timed.now)
        monkeypatch.setattr(f"thalweg.lab.running.{module}.time", clock)
    assert budget.cost(timed, spaces.find("sgd")) == pytest.approx(cost)
    assert timed.now < 3 * cost


def test_processes_of_a_run_measure_the_optimizers_that_are_named(monkeypatch):
    monkeypatch.setattr(budget, "cost", lambda workload, space: {"sgd": 1.0, "adamw": 3.0}[space.name])
    known = [spaces.find(name) for name in ("sgd", "adamw")]
    assert group.costs(Line(), known, None, ["sgd", "adamw"]) == [1.0, 3.0]
    assert group.costs(Line(), known, None, ["adamw"]) == [3.0]
