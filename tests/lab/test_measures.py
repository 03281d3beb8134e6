import statistics
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import Line, Scores, study

from thalweg.lab.judging import measures
from thalweg.lab.judging.measures import basin, best_of_k, reached, target
from thalweg.lab.study import protocol
from thalweg.lab.study.study import Margin

METRICS = st.lists(st.none() | st.integers(0, 20).map(float), min_size=1, max_size=7)


@settings(max_examples=40, deadline=None)
@given(METRICS, st.booleans())
def test_best_of_k_is_the_mean_best_over_all_subsets(metrics, higher):
    made = study(
        {"sgd": [1.0], "adamw": [1.0]},
        tuning={"sgd": metrics, "adamw": [1.0] * len(metrics)},
        workload=Scores() if higher else Line(),
    )
    best, worst = (max, min) if higher else (min, max)
    finished = [metric for metric in metrics if metric is not None]
    if not finished:
        assert best_of_k(made, made.spaces[0]) == []
        return
    known = [worst(finished) if metric is None else metric for metric in metrics]
    expected = [
        statistics.fmean(best(subset) for subset in combinations(known, k)) for k in range(1, len(known) + 1)
    ]
    assert best_of_k(made, made.spaces[0]) == pytest.approx(expected)


def test_best_of_k_leaves_out_trials_beyond_the_first_range():
    made = study({"sgd": [1.0], "adamw": [1.0]}, tuning={"sgd": [1.0, 2.0, 9.0], "adamw": [1.0, 9.0, 1.0]})
    assert made.of(made.spaces[0], "extend")
    assert len(best_of_k(made, made.spaces[0])) == 3


def basins(tuning, margin=1.0, **more):
    made = study({name: [1.0] for name in tuning}, tuning=tuning, **more)
    return made, {space.name: basin(made, space, margin) for space in made.spaces}


def test_a_basin_is_the_share_of_good_rates_in_decades():
    # SGD is searched over four decades, AdamW over three.
    _, found = basins({"sgd": [1.0, 8.5, 9.0, 2.0], "adamw": [1.0, 8.0, 9.0, None]})
    assert found["sgd"].searched == pytest.approx(4)
    assert found["sgd"].decades == pytest.approx(2)
    assert found["adamw"].searched == pytest.approx(3)
    assert found["adamw"].decades == pytest.approx(1.5)


def test_a_basin_of_errors_is_where_they_are_low():
    _, found = basins({"sgd": [9.0, 1.5, 1.0, 9.0], "adamw": [9.0, 1.0, 9.0, 9.0]}, workload=Line())
    assert found["sgd"].decades == pytest.approx(2)
    assert found["adamw"].decades == pytest.approx(0.75)


def test_a_basin_goes_on_beyond_a_range_that_was_extended():
    # SGD's best is at its highest rate, the decade beyond is as bad as the worst: of four decades one is
    # good, of the further one none.
    made, found = basins({"sgd": [1.0, 1.0, 1.0, 9.0], "adamw": [1.0, 9.0, 1.0, 1.0]})
    assert protocol.rate_range(made, made.spaces[0]).high == pytest.approx(100)
    assert found["sgd"].searched == pytest.approx(5)
    assert found["sgd"].decades == pytest.approx(1)
    # AdamW got as many trials more inside its own range, all bad: one of five is good.
    assert found["adamw"].searched == pytest.approx(3)
    assert found["adamw"].decades == pytest.approx(3 / 5)


def test_an_optimizer_that_always_failed_has_no_basin():
    _, found = basins({"sgd": [None] * 4, "adamw": [1.0, 9.0, 1.0, 1.0]})
    assert found["sgd"] is None


def test_the_margin_decides_how_wide_a_basin_is():
    made, _ = basins({"sgd": [1.0, 8.5, 9.0, 2.0], "adamw": [1.0, 8.0, 9.0, 1.0]})
    assert basin(made, made.spaces[0], 0.4).decades == pytest.approx(1)
    assert basin(made, made.spaces[0], 9.0).decades == pytest.approx(4)


class Aims(Scores):
    target = 42.0


def test_the_target_is_the_tasks():
    assert target(study({"sgd": [90.0], "adamw": [91.0]}, workload=Aims())) == 42.0


def test_without_one_it_is_what_all_arrive_at_less_the_margin():
    tests = {"sgd": [90.0, 92.0], "adamw": [95.0, 95.0], "adam": [50.0, None]}
    assert target(study(tests, margin=0.5)) == pytest.approx(90.5)
    errors = {"sgd": [3.0, 5.0], "adamw": [2.0, 2.0]}
    assert target(study(errors, margin=0.5, workload=Line())) == pytest.approx(4.5)
    relative = study(errors, margin=Margin(0.1, relative=True), workload=Line())
    # A tenth of the best mean on test, as everywhere.
    assert target(relative) == pytest.approx(4.2)


def test_without_final_runs_there_is_none():
    assert target(study({"sgd": [None], "adamw": [None]})) is None


def test_time_to_target_is_the_median_of_the_first_places():
    # A curve is 0, 1/2, 3/4, .. of its end at steps 0, 8, 16, .. of 40; a run takes one second.
    made = study({"sgd": [96.0, 64.0, 40.0], "adamw": [10.0, 10.0, 10.0]})
    found = reached(made, made.spaces[0], 48.0)
    assert found == measures.Reached(2, 3, 16.0, pytest.approx(0.4))
    assert reached(made, made.spaces[1], 48.0) == measures.Reached(0, 3, None, None)
    assert reached(made, made.spaces[1], 0.0).steps == 0


@pytest.mark.parametrize(
    ("ends", "steps"),
    [([96.0, 1.0], None), ([96.0, 96.0, 1.0, 1.0], None), ([96.0, 96.0, 1.0], 8.0), ([96.0, 96.0], 8.0)],
)
def test_half_of_the_runs_are_too_few_for_a_median(ends, steps):
    made = study({"sgd": ends, "adamw": ends})
    found = reached(made, made.spaces[0], 48.0)
    assert (found.runs, found.steps) == (ends.count(96.0), steps)
    assert (found.seconds is None) == (steps is None)


def test_a_run_that_reaches_the_target_and_then_fails_has_reached_it():
    made = study({"sgd": [96.0], "adamw": [96.0]})
    diverged = [
        replace(r, validation=None, test=None, curve=r.curve[:3]) if r.trial.stage == "final" else r
        for r in made.records
    ]
    assert reached(made.holding(diverged), made.spaces[0], 48.0).steps == 8


def test_errors_reach_a_target_from_above():
    # A curve of errors falls from twice its end.
    made = study({"sgd": [10.0], "adamw": [10.0]}, workload=Line())
    assert reached(made, made.spaces[0], 15.0).steps == 8
    assert reached(made, made.spaces[0], 9.0).steps is None
