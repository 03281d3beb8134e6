"""Looks, intervals of sign flips, and what they allow one to say."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import Line, Scores, complete, study
from scipy import stats

from thalweg.lab import spaces
from thalweg.lab.judging.statistics import holm
from thalweg.lab.study import protocol
from thalweg.lab.study.evidence import luck_of_tuning
from thalweg.lab.study.intervals import flip_p, flipped, guarded, of_mean, skewed, student
from thalweg.lab.study.looks import ERROR, LOOKS, fewest_seeds, looks_up_to, spending
from thalweg.lab.study.protocol import due, evidence, is_complete
from thalweg.lab.study.record import Failure
from thalweg.lab.study.study import Margin, Settings, Study, margin_of

# Looks and the error they spend


@pytest.mark.parametrize(
    ("seeds", "looks"),
    [
        (24, (6, 10, 16, 24)),
        (16, (6, 10, 16)),
        (12, (6, 12)),
        (10, (6, 10)),
        (7, (7,)),
        (1, (1,)),
        (40, (*LOOKS, 40)),
    ],
)
def test_looks_are_those_that_come_well_before_the_last(seeds, looks):
    assert looks_up_to(seeds) == looks


@given(st.integers(1, 60), st.integers(0, 100))
def test_no_more_error_is_spent_than_there_is(seeds, pairs):
    looks = looks_up_to(seeds)
    spent = spending(looks, pairs)
    assert len(spent) == len(looks)
    assert sum(spent) * max(1, pairs) == pytest.approx(ERROR)


def test_a_look_that_cannot_tell_spends_nothing():
    assert spending(LOOKS, 1) == pytest.approx([1 / 32, 0.00625, 0.00625, 0.00625])
    assert spending(LOOKS, 3)[0] == 0
    assert spending(LOOKS, 45) == pytest.approx([0, 0, 0.025 / 45, 0.025 / 45])


@pytest.mark.parametrize("optimizers", [2, 3, 4, 10])
def test_fewest_seeds_are_the_fewest_that_can_tell(optimizers):
    pairs, fewest = optimizers * (optimizers - 1) // 2, fewest_seeds(optimizers)
    assert flipped([1.0] * fewest, ERROR / pairs) is not None
    assert flipped([1.0] * (fewest - 1), ERROR / pairs) is None
    assert holm([2 / 2**fewest] + [1.0] * (pairs - 1))[0] <= ERROR


# Sign flips


def enumerated(values, centre=0.0) -> float:
    """The two-sided p over all signs."""
    away = np.asarray(values) - centre
    sums = [np.dot(signs, away) for signs in product([1, -1], repeat=len(away))]
    return min(1.0, 2 * min(np.mean(sums >= sum(away) - 1e-9), np.mean(sums <= sum(away) + 1e-9)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_flip_p_is_the_enumeration_of_all_signs(values):
    assert flip_p([value / 4 for value in values]) == pytest.approx(enumerated([v / 4 for v in values]))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(-100, 100).map(lambda n: n / 8), min_size=6, max_size=9),
    st.sampled_from([0.05, 0.2]),
)
def test_the_interval_holds_the_centres_that_are_not_rejected(values, error):
    low, high = flipped(values, error)
    assert enumerated(values, low + 1e-6) > error or low == high
    assert enumerated(values, high - 1e-6) > error or low == high
    assert enumerated(values, low - 1e-6) <= error
    assert enumerated(values, high + 1e-6) <= error


def test_six_values_are_bounded_by_themselves_and_five_by_nothing():
    assert flipped([3.0, 1.0, 2.0, 5.0, 4.0, 9.0], 1 / 32) == (1.0, 9.0)
    assert flipped([3.0, 1.0, 2.0, 5.0, 4.0], 1 / 32) is None


@pytest.mark.parametrize("n", [6, 14, 24])
def test_flips_miss_no_more_than_they_say(n):
    generator, error = np.random.default_rng(n), 1 / 32
    missed = 0
    for _ in range(400):
        low, high = flipped(generator.standard_t(3, size=n), error)
        missed += not low <= 0 <= high
    # The binomial standard error is 0.009.
    assert missed / 400 < error + 0.02


def test_equal_values_have_intervals_of_no_width():
    for found in (
        student([0.1] * 7, 0.05),
        skewed([0.1] * 7, 0.05),
        flipped([0.1] * 7, 0.05),
        guarded((0.1,) * 7, 0.05),
    ):
        assert found == pytest.approx((0.1, 0.1))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-1000, 1000), min_size=4, max_size=15))
def test_the_correction_for_skewness_is_turned_with_the_values(values):
    low, high = skewed(values, 0.05)
    turned = skewed([-value for value in values], 0.05)
    assert turned == pytest.approx((-high, -low), abs=1e-6)
    assert low <= high


def test_without_skewness_the_correction_is_students():
    values = [-2.0, -1.0, 0.0, 1.0, 2.0]
    assert skewed(values, 0.05) == pytest.approx(student(values, 0.05))
    assert student(values, 0.05) == pytest.approx(stats.t.interval(0.95, 4, 0, stats.sem(values)))
    assert of_mean([1.0], 0.05) is None


# When a study ends


SPACES = [spaces.find(name) for name in ("sgd", "adamw")]


def looked(lead: float, noise: float, margin: float = 0.5, seed: int = 0, of=SPACES) -> Study:
    """A study with looks, AdamW ahead by `lead`, with so much noise."""
    generator = np.random.default_rng(seed)
    begun = Study(Scores(), Settings(3, 24, Margin(margin), looks=LOOKS), of)
    return complete(
        begun,
        lambda trial: 90.0 - abs(np.log10(trial.lr) + 2),
        lambda trial: float(90 + noise * generator.normal() + lead * (trial.name == "adamw")),
    )


def seeds_run(made: Study) -> int:
    return len(made.final_of(made.spaces[0]))


def test_a_clear_lead_ends_at_the_first_look():
    made = looked(5.0, 0.1)
    assert seeds_run(made) == 6
    assert evidence(made).relation(SPACES[1], SPACES[0]) == "ahead"
    assert is_complete(made)


def test_clear_equality_ends_early_and_what_is_close_gets_all_seeds():
    assert seeds_run(looked(0.0, 0.05)) == 6
    close = looked(0.5, 1.0)
    assert seeds_run(close) == 24
    found = evidence(close)
    assert found.relation(*SPACES) == "unresolved"
    assert found.seeds_needed(*SPACES) > 24


def test_three_optimizers_cannot_end_at_six():
    made = looked(5.0, 0.1, of=[*SPACES, spaces.find("adam")])
    assert seeds_run(made) == 10


def test_a_study_without_looks_takes_all_its_seeds():
    made = study({"sgd": [90.0] * 12, "adamw": [95.0] * 12})
    assert seeds_run(made) == 12
    assert evidence(made).looks == (12,)


def test_looks_do_not_depend_on_what_came_after_them():
    made = looked(0.5, 1.0)
    order = {trial.key: place for place, trial in enumerate(due(made))}
    for count in range(len(made.records)):
        part = made.holding(made.records[:count])
        assert [order[trial.key] for trial in due(part)] == list(range(len(due(part)))), count


def test_what_is_due_does_not_depend_on_the_order_of_the_records():
    made = looked(0.8, 1.0, seed=3)
    assert due(made.holding(made.records[::-1])) == due(made)


def test_before_a_look_is_complete_nothing_is_said():
    made = looked(5.0, 0.1)
    finals = [r for r in made.records if r.trial.stage == "final"]
    part = made.holding([r for r in made.records if r is not finals[-1]])
    found = evidence(part)
    assert (found.reached, found.interval(*SPACES), found.relation(*SPACES)) == (0, None, "unresolved")
    assert found.shown(*SPACES) is not None


def test_what_one_look_has_told_stays_told():
    made = looked(0.9, 0.3, margin=0.0)
    found = evidence(made)
    # More seeds, as by a study that was begun with the first look further on.
    settings = replace(made.settings, looks=(6, 10, 16, 24))
    assert evidence(made.holding(made.records)).relation(*SPACES) == found.relation(*SPACES) == "behind"
    assert settings == made.settings


# Failures and accidents


GOOD = [99.0 + 0.1 * (place % 3) for place in range(10)]
POOR = [60.0 + 0.2 * (place % 4) for place in range(10)]


@pytest.mark.parametrize("failures", [1, 2])
def test_the_better_one_stays_ahead_though_it_failed_once_or_twice(failures):
    made = study({"sgd": POOR, "adamw": [*GOOD[:-failures], *[None] * failures]})
    assert evidence(made).relation(SPACES[1], SPACES[0]) in ("ahead", "unresolved")
    assert evidence(made).ranked()[0].name == "adamw"


def test_one_that_always_fails_is_behind():
    made = study({"sgd": [None] * 10, "adamw": GOOD})
    assert evidence(made).relation(SPACES[1], SPACES[0]) == "ahead"


def test_where_one_failed_there_is_no_equivalence():
    assert evidence(study({"sgd": GOOD, "adamw": GOOD})).relation(*SPACES) == "equivalent"
    failing = study({"sgd": GOOD, "adamw": [*GOOD[:-1], None]}, margin=50.0)
    assert evidence(failing).relation(*SPACES) == "unresolved"


def test_a_metric_that_is_not_finite_is_a_failure():
    made = study({"sgd": GOOD, "adamw": [*GOOD[:-1], float("nan")]})
    assert evidence(made).finished(SPACES[1]) == 9


def test_an_accident_counts_as_not_made():
    made = study({"sgd": GOOD, "adamw": [*GOOD[:-1], None]})
    lost = [replace(r, failure=Failure("killed", "by somebody")) if r.failure else r for r in made.records]
    found = evidence(made.holding(lost))
    assert len(found.differences(*SPACES)) == 9
    assert found.relation(*SPACES) == "equivalent"


def test_nobody_is_ahead_where_all_fail():
    found = evidence(study({"sgd": [None] * 8, "adamw": [None] * 8}))
    assert found.relation(*SPACES) == "unresolved"
    assert found.ranked() == []


# Margins


def test_the_usual_margin_of_a_metric_near_zero_is_a_share_of_the_spread():
    class Score(Line):
        margin = None
        higher_is_better = True

    usual = margin_of(Score())
    near_zero = [0.02, -0.02, 0.01, -0.01, 0.0, 0.0]
    made = study({"sgd": near_zero, "adamw": near_zero}, margin=usual, workload=Score())
    assert evidence(made).margin == pytest.approx(0.25 * np.std(near_zero, ddof=1))
    # A curve of samples starts at zero: the improvement is the whole.
    large = study({"sgd": [50.0] * 6, "adamw": [40.0] * 6}, margin=usual, workload=Score())
    assert evidence(large).margin == pytest.approx(1.0)


# The luck of tuning


def tuned(metrics: list[float], noise: float = 0.0) -> float:
    """The luck of SGD's tuning with these results, and so much noise in confirmation."""
    made = study({"sgd": GOOD, "adamw": GOOD}, tuning={"sgd": metrics, "adamw": metrics})
    signs = dict(zip(protocol.seeds(made.settings)[1], (-1, 0, 1), strict=True))
    records = [
        replace(r, validation=r.validation._replace(metric=r.validation.metric + noise * signs[r.trial.seed]))
        if r.trial.stage == "confirm"
        else r
        for r in made.records
    ]
    return luck_of_tuning(made.holding(records), made.spaces[0])


def test_the_luck_of_tuning_is_a_share_of_what_separates_the_best_from_the_third():
    assert tuned([60.0, 65.0, 70.0, 80.0, 88.0, 90.0, 89.0, 70.0]) == pytest.approx(1.2)
    assert tuned([60.0, 65.0, 70.0, 80.0, 88.0, 90.0, 89.0, 70.0], noise=1.0) == pytest.approx(1.05)
    assert tuned([60.0, 65.0, 70.0, 80.0, 88.0, 90.0, 89.0, 70.0], noise=9.0) == 0.0
    assert tuned([90.0]) == 0.0


def test_a_margin_of_zero_asks_for_more_than_the_luck_of_tuning():
    tests = {"sgd": GOOD, "adamw": [value + 0.3 for value in GOOD]}
    plain = study(tests, margin=0.0, tuning={name: [90.0] * 8 for name in tests})
    assert evidence(plain).relation(SPACES[1], SPACES[0]) == "ahead"
    peaked = study(
        tests, margin=0.0, tuning={name: [60.0, 65.0, 70.0, 80.0, 88.0, 90.0, 89.0, 70.0] for name in tests}
    )
    assert evidence(peaked).relation(SPACES[1], SPACES[0]) == "unresolved"
