"""What a time budget buys of a sensitivity, and that the same command goes on with what was bought."""

import json
import re
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import Line, record
from test_execution import Here

from thalweg.cli import main
from thalweg.lab import sensitivity, spaces
from thalweg.lab.comparing import budget as comparing
from thalweg.lab.comparing.budget import MOST_SEEDS, capacity
from thalweg.lab.spaces import Axis
from thalweg.lab.study import grid
from thalweg.lab.study.study import Settings, Study
from thalweg.lab.sweeping.sensitivity import question
from thalweg.lab.sweeping.sensitivity.budget import FINEST, RUNGS, buy, runs

ADAMW = spaces.find("adamw")
ONE = partial(question.ask, ADAMW, ["beta2"], {}, called={})
TWO = partial(question.ask, ADAMW, ["beta2", "eps"], {}, called={})


def given_values(_count):
    return question.ask(ADAMW, ["beta2"], {"beta2": [0.9, 0.95, 0.99]}, 4, {})


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize(
    "axis", [ADAMW.axes[2], Axis("k", 1, 8, integer=True), Axis("d", 0.1, 3, zero=True)], ids=lambda a: a.name
)
def test_the_values_of_a_coarser_grid_are_among_those_of_the_finest(axis, count):
    assert set(question.spread(axis, count)) <= set(question.spread(axis, max(FINEST.values())))


def test_what_is_bought_is_on_the_finest_grid():
    assert all(rung.points in (2, 3, 5, 9) for rung in RUNGS)
    assert set(FINEST.values()) <= {2, 3, 5, 9}


@given(st.floats(1, 1e5), st.sampled_from([ONE, TWO, given_values]), st.integers(1, 16))
def test_it_fits_into_the_budget_unless_that_is_too_small_for_anything(budget, asked, workers):
    found = buy(ADAMW, asked, 2.0, budget, workers)
    arms = len(grid.arms(ADAMW, asked(found["points"])))
    spent = runs(arms, found["trials"], found["seeds"])
    least = runs(len(grid.arms(ADAMW, asked(RUNGS[0].points))), RUNGS[0].trials, RUNGS[0].seeds)
    affordable = capacity(budget, workers) / 2.0
    assert spent <= max(affordable, least)
    if spent < affordable:
        next_seed = runs(arms, found["trials"], found["seeds"] + 1)
        assert found["seeds"] == MOST_SEEDS or next_seed > affordable - 1
    assert 2 <= found["seeds"] <= MOST_SEEDS
    assert found["points"] <= FINEST[len(asked(2))]


@given(st.floats(6, 1e4), st.floats(1, 10))
def test_more_time_never_buys_less(budget, times):
    names = ("points", "trials", "seeds")
    small, large = (buy(ADAMW, ONE, 1.0, seconds, 2) for seconds in (budget, budget * times))
    assert [large[name] for name in names] >= [small[name] for name in names]


def test_values_that_were_given_stay():
    found = buy(ADAMW, given_values, 1.0, 3600, 2)
    # beta2 of 0.999, its default, is beside them.
    assert "buys 4 points, 16 learning rates at each" in found["bought"]


def test_it_is_said_in_words_what_was_bought():
    found = buy(ADAMW, ONE, 1.25, 300, 2)
    assert [found[name] for name in ("points", "trials", "seeds", "seconds")] == [9, 12, 10, 1.25]
    assert found["bought"] == (
        "a budget of 5 min buys 10 points, 12 learning rates at each and 10 seeds: "
        "at most 390 runs of about 1.2 s, 2 at a time"
    )


@pytest.mark.parametrize("best", [0.002, 0.4])
def test_the_runs_that_are_counted_are_those_that_are_made(best):
    """Where the range never grows, fewer by what its growth was to cost; where it grows once, as many."""
    from test_sensitivity import hill

    settings, arms = Settings(trials=4, seeds=3), grid.arms(ADAMW, ONE(3))
    study = Study(Line(), settings, arms)
    while todo := [t for t in grid.due(study) if t.key not in {r.trial.key for r in study.records}]:
        study = study.holding([*study.records, *(record(t, hill(t, best=best)) for t in todo)])
    grown = len(study.of(arms[0], "extend"))
    assert len(study.records) == runs(len(arms), 4, 3) - (1 - grown) * (len(arms) + 3)


# The whole


def ask(**more):
    return sensitivity(Line(), "momentum", "sgd", workers=1, progress=False, **more)


@pytest.fixture
def costs(monkeypatch):
    """What a run is found to take, one after the other; runs are made by this process."""
    found = []
    monkeypatch.setattr("thalweg.lab.sweeping.sensitivity.api.Pool", Here)
    monkeypatch.setattr("thalweg.lab.sweeping.sensitivity.command.Pool", Here)
    monkeypatch.setattr(comparing, "cost", lambda workload, space: found.pop(0))
    return found


def test_the_same_call_goes_on_with_what_was_bought_and_another_budget_is_another_study(costs, tmp_path):
    costs += [1.0, 1.1]
    first = ask(budget=30, storage=tmp_path / "study.db")
    again = ask(budget="30s", storage=tmp_path / "study.db")
    assert costs == [1.1]
    assert (first.provenance.found, again.provenance.found) == (0, len(first.study.records))
    assert first.study.settings == again.study.settings
    assert first.factors == again.factors
    assert first.provenance.bought == again.provenance.bought
    assert first.provenance.bought.startswith("a budget of 30 s buys")
    other = ask(budget=31, storage=tmp_path / "study.db")
    assert (other.provenance.found, costs) == (0, [])


def test_runs_that_take_longer_than_planned_are_told(costs):
    costs += [1e-7]
    answer = ask(budget=5.00001)
    assert "budget" in [doubt.kind for doubt in answer.provenance.warnings]


@pytest.mark.parametrize("name", ["points", "trials", "seeds"])
def test_a_budget_chooses_alone(name):
    with pytest.raises(ValueError, match=f"^{name} cannot be given with budget, which chooses it"):
        ask(budget=60, **{name: 3})


def command(*arguments) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(["sensitivity", *map(str, arguments)])
    return exit_.value.code


def test_the_command_tells_and_keeps_what_was_bought(capsys, costs, task_file, tmp_path):
    costs += [1.0]
    told = []
    for _ in range(2):
        asked = ["--of", "alpha", "--optimizer", "rmsprop", "--budget", "20s", "--workers", 1]
        assert command(task_file(), *asked, "--out", tmp_path / "out") == 0
        told.append(capsys.readouterr().err)
    assert all("a budget of 20 s buys 3 points" in text for text in told)
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    assert document["bought"].startswith("a budget of 20 s buys 3 points")
    assert document["found"] == len(document["records"])
    assert "a budget of 20 s buys" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--budget", "soon"], "--budget: a duration looks like"),
        (["--budget", "10m", "--points", "3"], "--points cannot be given with --budget"),
        (["--budget", "10m", "--seeds", "3"], "--seeds cannot be given with --budget"),
    ],
)
def test_the_command_refuses_in_one_line(capsys, tmp_path, monkeypatch, arguments, named):
    monkeypatch.chdir(tmp_path)
    assert command("digits", "--of", "eps", *arguments) == 2
    assert re.fullmatch(rf"thalweg: {named}[^\n]*\n", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []
