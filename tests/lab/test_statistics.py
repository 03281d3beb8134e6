import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import Line, study
from scipy import stats

from thalweg.lab.statistics import (
    FEWEST_SEEDS,
    RESAMPLES,
    Interval,
    compare,
    final_metrics,
    mean_interval,
    rank,
    relate,
)

OPPOSITE = {
    "ahead": "behind",
    "behind": "ahead",
    "equivalent": "equivalent",
    "unresolved": "unresolved",
}


def test_one_value_has_no_interval():
    assert mean_interval([3.0]) == Interval(3.0, None, None)


def test_equal_values_have_an_interval_of_no_width():
    assert mean_interval([2.5] * 7) == Interval(2.5, 2.5, 2.5)


def test_two_values_are_bounded_by_themselves():
    assert mean_interval([1.0, 4.0]) == Interval(2.5, 1.0, 4.0)


def test_interval_is_scipys_percentile_bootstrap_at_the_expanded_level():
    values = np.random.default_rng(5).exponential(size=15)
    tail = stats.norm.cdf(-math.sqrt(15 / 14) * stats.t.ppf(0.975, 14))
    expected = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=1 - 2 * tail,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    interval = mean_interval(values)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=0.02)


def test_interval_covers_the_true_mean_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(size=(400, 8))
    intervals = [mean_interval(values) for values in draws]
    covered = np.mean([interval.low <= 0 <= interval.high for interval in intervals])
    # The plain percentile bootstrap covers 0.89 here; the binomial standard error is 0.011.
    assert 0.92 < covered < 0.98


@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=25), st.integers(-1000, 1000))
def test_interval_holds_its_mean_and_moves_with_the_values(values, shift):
    values = [value / 16 for value in values]
    interval = mean_interval(values)
    moved = mean_interval([value + shift for value in values])
    assert min(values) <= interval.low <= interval.mean + 1e-9
    assert interval.mean - 1e-9 <= interval.high <= max(values)
    assert moved.low == pytest.approx(interval.low + shift, abs=1e-6)
    assert moved.high == pytest.approx(interval.high + shift, abs=1e-6)


@pytest.mark.parametrize(
    ("low", "high", "relation"),
    [
        (0.6, 0.9, "ahead"),
        (0.5, 0.9, "unresolved"),
        (0.1, 0.9, "unresolved"),
        (-0.5, 0.5, "equivalent"),
        (-0.6, 0.2, "unresolved"),
        (-0.9, -0.6, "behind"),
    ],
)
def test_relation_is_told_by_interval_and_margin(low, high, relation):
    assert relate(Interval((low + high) / 2, low, high), 0.5, pairs=20) == relation


@given(st.floats(-5, 5), st.floats(0, 5), st.floats(0, 3))
def test_relation_is_reversed_when_the_two_are_swapped(low, width, margin):
    high = low + width
    there = relate(Interval((low + high) / 2, low, high), margin, pairs=20)
    back = relate(Interval(-(low + high) / 2, -high, -low), margin, pairs=20)
    assert back == OPPOSITE[there]


def test_few_pairs_resolve_nothing():
    assert relate(Interval(9.0, 8.0, 10.0), 0.5, FEWEST_SEEDS - 1) == "unresolved"
    assert relate(Interval(9.0, 8.0, 10.0), 0.5, FEWEST_SEEDS) == "ahead"
    assert relate(Interval(9.0, None, None), 0.5, 1) == "unresolved"


def test_comparison_is_of_pairs_and_not_of_means():
    # Seeds differ by tens of points, the optimizers by one on every seed.
    sgd = [10.0, 30.0, 50.0, 70.0, 90.0, 20.0]
    made = study({"sgd": sgd, "adamw": [value + 1 for value in sgd]})
    first, second = made.spaces
    comparison = compare(made, second, first)
    assert comparison.difference == Interval(1.0, 1.0, 1.0)
    assert (comparison.wins, comparison.losses, comparison.relation) == (6, 0, "ahead")
    assert compare(made, first, second).difference.mean == -1.0


def test_comparison_is_positive_where_first_has_the_lower_error():
    made = study({"sgd": [1.0] * 6, "adamw": [2.0] * 6}, workload=Line())
    assert compare(made, *made.spaces).difference.mean == 1.0


def test_ranking_goes_from_best_to_worst_and_failures_come_last():
    made = study({"sgd": [90.0, None], "adam": [80.0, 81.0], "adamw": [85.0, 86.0]})
    assert [row.space.name for row in rank(made)] == ["adamw", "adam", "sgd"]
    assert rank(made)[-1].failures == 1
    assert rank(made)[-1].test is None


def test_ranking_of_errors_goes_from_low_to_high():
    made = study({"sgd": [3.0, 3.0], "adamw": [2.0, 2.0]}, workload=Line())
    assert [row.space.name for row in rank(made)] == ["adamw", "sgd"]


def test_final_metrics_are_in_the_order_of_the_seeds():
    made = study({"sgd": [3.0, 1.0, 2.0], "adamw": [1.0, 1.0, 1.0]})
    assert final_metrics(made, made.spaces[0]) == [3.0, 1.0, 2.0]
