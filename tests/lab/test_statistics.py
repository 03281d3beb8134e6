import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import Line, study
from scipy import stats

from thalweg.lab.judging.statistics import (
    Interval,
    compare,
    fewest_seeds,
    final_metrics,
    holm,
    margin,
    mean_interval,
    rank,
    surely_best,
)
from thalweg.lab.study.evidence import relate
from thalweg.lab.study.study import Margin

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


@pytest.mark.parametrize("n", [2, 3])
def test_two_or_three_values_have_students_interval(n):
    values = [1.0, 4.0, 5.5][:n]
    expected = stats.t.interval(0.95, n - 1, np.mean(values), stats.sem(values))
    interval = mean_interval(values)
    assert (interval.low, interval.high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("draw", "n", "least"),
    [
        ("normal", 2, 0.93),
        ("normal", 3, 0.93),
        ("normal", 6, 0.94),
        ("exponential", 6, 0.92),
        ("exponential", 10, 0.92),
    ],
)
def test_interval_covers_the_true_mean_as_often_as_it_says(draw, n, least):
    generator = np.random.default_rng(0)
    draws = getattr(generator, draw)(size=(1000, n)) - (draw == "exponential")
    intervals = [mean_interval(values) for values in draws]
    # The binomial standard error is 0.007. The bootstrap had 0.50 of two normal values, 0.89 of six
    # exponential ones.
    assert np.mean([interval.low <= 0 <= interval.high for interval in intervals]) > least


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=25), st.integers(-1000, 1000))
def test_interval_holds_its_mean_and_moves_with_the_values(values, shift):
    values = [value / 16 for value in values]
    interval = mean_interval(values)
    moved = mean_interval([value + shift for value in values])
    assert interval.low - 1e-9 <= interval.mean <= interval.high + 1e-9
    assert moved.low == pytest.approx(interval.low + shift, abs=1e-6)
    assert moved.high == pytest.approx(interval.high + shift, abs=1e-6)


def test_holm_is_that_of_a_known_example():
    # Four hypotheses; 0.005 * 4, 0.01 * 3, 0.03 * 2 and 0.04, raised to the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.9]) == [0.8, 0.9]
    assert holm([]) == []


def rejected(ps, level) -> set[int]:
    """Holm's procedure step by step."""
    found: set[int] = set()
    for i in sorted(range(len(ps)), key=lambda i: ps[i]):
        if ps[i] > level / (len(ps) - len(found)):
            break
        found.add(i)
    return found


@given(
    st.lists(st.integers(0, 2**10).map(lambda n: n / 2**10), min_size=1, max_size=8),
    st.sampled_from(range(9)),
)
def test_holm_rejects_what_its_procedure_rejects(ps, place):
    adjusted = holm(ps)
    assert all(p <= q <= 1 for p, q in zip(ps, adjusted, strict=True))
    assert all(adjusted[i] <= adjusted[j] for i in range(len(ps)) for j in range(len(ps)) if ps[i] <= ps[j])
    # Not at a level where one of them is only just rejected: rounding decides there.
    for level in (0.05, 0.0333, 0.21):
        if all(abs(q - level) > 1e-9 for q in adjusted):
            assert {i for i, q in enumerate(adjusted) if q <= level} == rejected(ps, level)


def test_fewest_seeds_are_those_of_the_documentation():
    assert [fewest_seeds(n) for n in (1, 2, 3, 4, 10)] == [6, 6, 7, 8, 11]


@pytest.mark.parametrize(
    ("low", "high", "relation"),
    [
        (0.6, 0.9, "ahead"),
        (0.5, 0.9, "unresolved"),
        (0.1, 0.9, "unresolved"),
        (-0.5, 0.5, "equivalent"),
        (-0.6, 0.2, "unresolved"),
        (-0.9, -0.6, "behind"),
        (-0.9, -0.5, "unresolved"),
    ],
)
def test_relation_is_told_by_interval_and_margin(low, high, relation):
    assert relate((low, high), 0.5) == relation


def test_a_lead_that_may_be_the_luck_of_tuning_is_unresolved():
    assert relate((0.1, 0.9), 0.0) == "ahead"
    assert relate((0.1, 0.9), 0.0, floor=0.2) == "unresolved"
    assert relate((-0.9, -0.1), 0.0, floor=0.2) == "unresolved"
    assert relate((0.6, 0.9), 0.5, floor=0.2) == "unresolved"
    assert relate((0.8, 0.9), 0.5, floor=0.2) == "ahead"
    assert relate(None, 0.5) == "unresolved"


@given(st.floats(-5, 5), st.floats(0, 5), st.floats(0, 3))
def test_relation_is_reversed_when_the_two_are_swapped(low, width, margin):
    high = low + width
    assert relate((-high, -low), margin) == OPPOSITE[relate((low, high), margin)]


def test_comparison_is_of_pairs_and_not_of_means():
    # Seeds differ by tens of points, the optimizers by one on every seed.
    sgd = [10.0, 30.0, 50.0, 70.0, 90.0, 20.0]
    made = study({"sgd": sgd, "adamw": [value + 1 for value in sgd]})
    (comparison,) = compare(made, rank(made))
    assert (comparison.first.name, comparison.second.name) == ("adamw", "sgd")
    assert comparison.difference == Interval(1.0, 1.0, 1.0)
    assert (comparison.pairs, comparison.wins, comparison.losses) == (6, 6, 0)
    assert comparison.p == comparison.p_holm == pytest.approx(2 / 2**6)
    assert comparison.relation == "ahead"


def test_a_comparison_turned_is_the_other_ones():
    made = study({"sgd": [1.0, 3.0, 2.0, 4.0, 1.0, 2.0], "adamw": [2.0, 3.0, 4.0, 3.5, 2.0, 2.5]})
    (comparison,) = compare(made, rank(made))
    turned = comparison.turned()
    assert (turned.first, turned.second) == (comparison.second, comparison.first)
    assert (turned.wins, turned.losses) == (comparison.losses, comparison.wins) == (1, 4)
    difference = comparison.difference
    assert turned.difference == Interval(-difference.mean, -difference.high, -difference.low)
    assert turned.turned() == comparison


def test_comparison_is_positive_where_first_has_the_lower_error():
    made = study({"sgd": [1.0] * 6, "adamw": [2.0] * 6}, workload=Line())
    (comparison,) = compare(made, rank(made))
    assert comparison.first.name == "sgd"
    assert comparison.difference.mean == 1.0


def test_all_pairs_are_compared_and_adjusted_together():
    tests = {"sgd": [1.0] * 7, "adam": [3.0] * 7, "adamw": [2.0] * 7, "lion": [None] * 7}
    made = study(tests)
    comparisons = compare(made, rank(made))
    pairs = [(c.first.name, c.second.name) for c in comparisons]
    # Lion, which never finished, is behind all others on every seed.
    assert pairs == [("adam", "adamw"), ("adam", "sgd"), ("adam", "lion"), *pairs[3:]]
    assert [c.p_holm for c in comparisons] == pytest.approx(holm([c.p for c in comparisons]))
    # Seven seeds are enough for three optimizers; one that failed still counts as asked for.
    assert {c.relation for c in comparisons} == {"unresolved"}
    more = study({name: metrics + metrics[:1] for name, metrics in tests.items()})
    found = compare(more, rank(more))
    assert {c.relation for c in found if c.second.name != "lion"} == {"ahead"}


def test_only_seeds_that_both_ran_are_compared():
    made = study({"sgd": [1.0, 5.0, 2.0, 4.0], "adamw": [2.0, 5.5, 3.0, 4.0]})
    cut = [r for r in made.records if r.trial.stage != "final"]
    finals = [r for r in made.records if r.trial.stage == "final"]
    kept = [r for r in finals if r.trial.name == "sgd"] + [r for r in finals if r.trial.name == "adamw"][:2]
    part = made.holding(cut + kept)
    (comparison,) = compare(part, rank(part))
    assert comparison.pairs == 2
    ours, others = (final_metrics(part, space) for space in (comparison.first, comparison.second))
    shared = ours.keys() & others.keys()
    assert comparison.difference.mean == pytest.approx(np.mean([ours[s] - others[s] for s in shared]))


def test_a_failure_counts_as_worse_than_the_worst_run_that_finished():
    made = study({"sgd": [90.0, None], "adam": [80.0, 81.0], "adamw": [85.0, 86.0], "lion": [None, None]})
    assert [row.space.name for row in rank(made)] == ["adamw", "sgd", "adam", "lion"]
    sgd = rank(made)[1]
    # The worst run has 80, seeds differ by 0.7.
    assert sgd.test.mean == pytest.approx((90 + 80 - 2**-0.5) / 2)
    assert (sgd.finished, sgd.measured, sgd.failures) == (90.0, 2, 1)
    lion = rank(made)[3]
    assert (lion.test, lion.finished, lion.measured, lion.failures) == (None, None, 2, 2)


def test_ranking_of_errors_goes_from_low_to_high():
    made = study({"sgd": [3.0, 3.0], "adamw": [2.0, 2.0]}, workload=Line())
    assert [row.space.name for row in rank(made)] == ["adamw", "sgd"]


def test_a_row_says_what_an_optimizer_costs():
    row = rank(study({"sgd": [3.0, 3.0], "adamw": [2.0, 2.0]}))[0]
    assert (row.seconds, row.step_ms, row.state_bytes) == (1.0, 0.1, 8)


def test_an_optimizer_that_has_not_been_measured_has_a_row_without_numbers():
    made = study({"sgd": [3.0], "adamw": [2.0]})
    part = made.holding([r for r in made.records if r.trial.stage != "final"])
    row = rank(part)[0]
    assert row.chosen is not None
    assert (row.test, row.measured, row.failures, row.seconds, row.state_bytes) == (None, 0, 0, None, None)
    assert compare(part, rank(part)) == []


def test_a_relative_margin_is_a_share_of_the_best_mean():
    made = study({"sgd": [4.0] * 6, "adamw": [5.0] * 6}, margin=Margin(0.02, relative=True), workload=Line())
    assert margin(made) == pytest.approx(0.08)
    assert margin(made.holding([])) == 0.0


def test_the_best_may_be_all_that_are_not_surely_behind():
    sure = {seed: 1.0 + 0.01 * seed for seed in range(8)}
    assert surely_best({"a": sure, "b": {seed: value - 0.5 for seed, value in sure.items()}}) == ["a"]
    noisy = {seed: value - 0.1 * (-1) ** seed for seed, value in sure.items()}
    assert surely_best({"a": sure, "b": noisy}) == ["a", "b"]
    assert surely_best({"a": {}, "b": {}}) == []
    # Two seeds hardly tell anything.
    assert surely_best({"a": {0: 1.0, 1: 1.1}, "b": {0: 0.9, 1: 1.05}}) == ["a", "b"]
