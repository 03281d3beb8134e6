import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import Line, study
from scipy import stats

from thalweg.lab.judging.statistics import (
    RESAMPLES,
    Interval,
    compare,
    fewest_seeds,
    final_metrics,
    holm,
    margin,
    mean_interval,
    rank,
    relate,
    signed_rank,
)
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


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=25), st.integers(-1000, 1000))
def test_interval_holds_its_mean_and_moves_with_the_values(values, shift):
    values = [value / 16 for value in values]
    interval = mean_interval(values)
    moved = mean_interval([value + shift for value in values])
    assert min(values) <= interval.low <= interval.mean + 1e-9
    assert interval.mean - 1e-9 <= interval.high <= max(values)
    assert moved.low == pytest.approx(interval.low + shift, abs=1e-6)
    assert moved.high == pytest.approx(interval.high + shift, abs=1e-6)


@pytest.mark.parametrize("n", [1, 2, 5, 6, 9, 13, 20])
def test_signed_rank_is_the_exact_test_where_nothing_ties(n):
    generator = np.random.default_rng(n)
    for _ in range(3):
        values = np.arange(1, n + 1) * generator.choice([-1, 1], n) + generator.uniform(-0.3, 0.3, n)
        expected = stats.wilcoxon(values, method="exact").pvalue
        assert signed_rank(values) == pytest.approx(expected, abs=1e-12)


def enumerated(values) -> float:
    """The two-sided p over all signs; zeros keep their rank, half of it on either side."""
    ranks = stats.rankdata(np.abs(values))
    parts = [(sum(r for r, s in zip(ranks, signs, strict=True) if s)) for signs in _signs(values)]
    halves = sum(r for r, v in zip(ranks, values, strict=True) if v == 0) / 2
    seen = sum(r for r, v in zip(ranks, values, strict=True) if v > 0) + halves
    totals = np.array(parts) + halves
    return min(1.0, 2 * min(np.mean(totals >= seen - 1e-9), np.mean(totals <= seen + 1e-9)))


def _signs(values):
    return product(*[(False,) if value == 0 else (False, True) for value in values])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_signed_rank_with_ties_and_zeros_is_the_enumeration_of_all_signs(values):
    assert signed_rank([value / 4 for value in values]) == pytest.approx(enumerated(values), abs=1e-12)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=30))
def test_signed_rank_is_the_same_from_either_side(values):
    p = signed_rank(values)
    assert 0 < p <= 1
    assert signed_rank([-value for value in values]) == pytest.approx(p, abs=1e-12)


def test_no_difference_at_all_is_no_evidence():
    assert signed_rank([0.0] * 10) == 1.0


def test_many_equal_signs_are_strong_evidence():
    assert signed_rank([1.0] * 20) == pytest.approx(2 / 2**20)


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


@pytest.mark.parametrize("optimizers", [2, 3, 4, 10])
def test_fewest_seeds_are_the_fewest_that_can_convince_holm(optimizers):
    pairs = math.comb(optimizers, 2)
    fewest = fewest_seeds(optimizers)

    def smallest_p(n):
        # All seeds agree on one pair, the other pairs are at their worst.
        return holm([2 / 2**n] + [1.0] * (pairs - 1))[0]

    assert smallest_p(fewest) <= 0.05 < smallest_p(fewest - 1)


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
    assert relate(Interval((low + high) / 2, low, high), 0.01, 0.5) == relation


def test_a_lead_that_the_test_does_not_confirm_is_unresolved():
    lead = Interval(0.75, 0.6, 0.9)
    assert relate(lead, 0.05, 0.5) == "ahead"
    assert relate(lead, 0.051, 0.5) == "unresolved"
    # To be close takes no test.
    assert relate(Interval(0.0, -0.4, 0.4), 1.0, 0.5) == "equivalent"
    assert relate(Interval(9.0, None, None), 0.01, 0.5) == "unresolved"


@given(st.floats(-5, 5), st.floats(0, 5), st.floats(0, 3), st.floats(0, 0.1))
def test_relation_is_reversed_when_the_two_are_swapped(low, width, margin, p):
    high = low + width
    there = relate(Interval((low + high) / 2, low, high), p, margin)
    back = relate(Interval(-(low + high) / 2, -high, -low), p, margin)
    assert back == OPPOSITE[there]


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
    assert pairs == [("adam", "adamw"), ("adam", "sgd"), ("adamw", "sgd")]
    assert [c.p_holm for c in comparisons] == pytest.approx(holm([c.p for c in comparisons]))
    # Seven seeds are enough for three optimizers; one that failed still counts as asked for.
    assert {c.relation for c in comparisons} == {"unresolved"}
    more = study({name: metrics + metrics[:1] for name, metrics in tests.items()})
    assert {c.relation for c in compare(more, rank(more))} == {"ahead"}


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


def test_ranking_goes_from_best_to_worst_and_failures_come_last():
    made = study({"sgd": [90.0, None], "adam": [80.0, 81.0], "adamw": [85.0, 86.0], "lion": [None, None]})
    assert [row.space.name for row in rank(made)] == ["adamw", "adam", "sgd", "lion"]
    sgd = rank(made)[2]
    assert (sgd.test, sgd.measured, sgd.failures) == (None, 2, 1)


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
    assert margin(made, rank(made)) == pytest.approx(0.08)
    assert margin(made, []) == 0.0
