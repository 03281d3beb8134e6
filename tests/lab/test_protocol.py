import hashlib
import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import Line, Scores, complete, record

from thalweg.lab import spaces
from thalweg.lab.spaces import Axis, Space
from thalweg.lab.study import protocol
from thalweg.lab.study.extension import DESCENTS, was_all_too_high
from thalweg.lab.study.protocol import (
    border,
    candidates,
    chosen,
    due,
    is_complete,
    rate_range,
    runs_at_least,
    seeds,
)
from thalweg.lab.study.record import ACCIDENTS, Failure, failed
from thalweg.lab.study.study import Settings, Study

SPACES = [spaces.find(name) for name in ("sgd", "rmsprop", "adamw")]
SGD, RMSPROP, ADAMW = SPACES


def begin(trials=8, fresh=3, seed=0, workload=None, of=SPACES) -> Study:
    return Study(workload or Scores(), Settings(trials=trials, seeds=fresh, seed=seed), of)


def rate(trial) -> float:
    """The learning rate as it is searched, and how many decades above the bottom of its range it is."""
    axis = spaces.find(trial.name).axes[0]
    return math.log10(trial.point[axis.name] / axis.low)


def peak(at: dict[str, float], **failing):
    """Metrics that fall off to both sides of a learning rate, given in decades above the bottom."""
    return lambda trial: 90.0 - abs(rate(trial) - at[trial.name])


def drawn(salt: int, kinds: int):
    """Metrics that look random, with ties and, for 0, failures; they depend on the trial alone."""

    def metric(trial):
        digest = hashlib.sha256(f"{salt} {trial.key}".encode()).digest()
        return float(digest[0] % kinds) or None

    return metric


MIDDLE = {"sgd": 2.0, "rmsprop": 1.7, "adamw": 1.5}


def count(study: Study, *stages) -> dict[str, int]:
    return dict(Counter(r.trial.name for r in study.records if r.trial.stage in stages))


def same(count_: int) -> dict[str, int]:
    return dict.fromkeys(MIDDLE, count_)


# Stages and budgets


def test_every_optimizer_gets_the_same_budget_at_every_stage():
    made = complete(begin(trials=8, fresh=3), peak(MIDDLE), peak(MIDDLE))
    assert count(made, "tune") == same(8)
    assert count(made, "extend") == {}
    assert count(made, "confirm") == same(2 * 3)
    assert count(made, "final") == same(3)
    assert is_complete(made)
    assert len(made.records) == runs_at_least(3, made.settings)


def test_tuning_searches_the_same_places_on_one_seed():
    made = complete(begin(), peak(MIDDLE), peak(MIDDLE))
    tuning = [r.trial for r in made.records if r.trial.stage == "tune"]
    first, _, _ = seeds(made.settings)
    assert {trial.seed for trial in tuning} == {first}
    places = [
        [round(rate(t) / math.log10(s.axes[0].high / s.axes[0].low), 2) for t in tuning if t.name == s.name]
        for s in SPACES
    ]
    for other in places[1:]:
        assert other == pytest.approx(places[0], abs=0.011)


def test_what_a_trial_names_builds_what_it_searched():
    for trial in due(begin(trials=10)):
        space = spaces.find(trial.name)
        assert trial.settings == space.settings(trial.point)
        assert list(trial.point) == [axis.name for axis in space.searched(10)]


# Extensions


def test_a_best_rate_on_the_border_grows_that_range_and_budgets_stay_equal():
    made = complete(begin(trials=8), peak({**MIDDLE, "sgd": 4.4}), peak(MIDDLE))
    assert count(made, "extend") == same(2), "a quarter of the trials, for all alike, once"
    sgd = [rate(r.trial) for r in made.of(SGD, "extend")]
    assert all(4 <= place <= 5 for place in sgd)
    for space in (RMSPROP, ADAMW):
        further = [r.trial.point["lr"] for r in made.of(space, "extend")]
        assert all(space.axes[0].low <= lr <= space.axes[0].high for lr in further)
        assert len({r.trial.point["lr"] for r in made.tuning_of(space)}) == 10, "no rate is tried twice"
    assert (rate_range(made, SGD).low, rate_range(made, SGD).high) == (1e-3, 100)
    assert rate_range(made, ADAMW) == ADAMW.axes[0]


def test_a_range_grows_at_most_twice_and_on_its_side():
    made = complete(begin(trials=8), peak({**MIDDLE, "adamw": -9.0}), peak(MIDDLE))
    assert count(made, "extend") == same(2 * 2)
    adamw = sorted(rate(r.trial) for r in made.of(ADAMW, "extend"))
    assert all(-2 <= place <= -1 for place in adamw[:2])
    assert all(-1 <= place <= 0 for place in adamw[2:])
    assert rate_range(made, ADAMW).low == pytest.approx(3e-7)
    assert rate_range(made, ADAMW).high == 3e-2
    assert border(made, ADAMW) == "low", "a better one may still lie beyond"


def test_two_ranges_may_grow_on_different_sides_at_once():
    made = complete(begin(trials=4), peak({**MIDDLE, "sgd": 9.0, "adamw": -9.0}), peak(MIDDLE))
    assert count(made, "extend") == same(2)
    assert rate_range(made, SGD).high == pytest.approx(1000)
    assert rate_range(made, ADAMW).low == pytest.approx(3e-7)
    assert rate_range(made, RMSPROP) == RMSPROP.axes[0]


def test_the_second_extension_may_be_another_optimizers():
    # RMSprop's further trials inside its range bring a best at its border only in the second round.
    def metric(trial):
        if trial.name == "rmsprop":
            return 95.0 if trial.stage == "extend" else 90.0 - abs(rate(trial) - 1.7)
        return peak({**MIDDLE, "sgd": 4.4})(trial)

    made = complete(begin(trials=8), metric, peak(MIDDLE))
    assert set(count(made, "extend").values()) <= {2, 4}
    assert len(set(count(made, "extend").values())) == 1


def test_other_hyperparameters_are_searched_beyond_a_border_too():
    made = complete(begin(trials=12), peak({**MIDDLE, "sgd": 4.4}), peak(MIDDLE))
    further = made.of(SGD, "extend")
    assert len(further) == 3
    assert all(0.01 <= r.trial.point["1 - momentum"] <= 1 for r in further)
    assert len({r.trial.point["1 - momentum"] for r in further}) == 3


def test_rates_at_which_training_failed_are_no_border_to_go_beyond():
    def metric(trial):
        return None if rate(trial) > 2 else 90.0 + rate(trial)

    made = complete(begin(trials=8), metric, peak(MIDDLE))
    assert [border(made, space) for space in SPACES] == [None] * 3
    assert count(made, "extend") == {}


def test_a_single_rate_is_no_border():
    made = complete(begin(trials=1), peak(MIDDLE), peak(MIDDLE))
    assert [border(made, space) for space in SPACES] == [None] * 3
    assert len(made.records) == runs_at_least(3, made.settings) == 3 * (1 + 3)


# Candidates


def tuned(metrics, space=SGD, workload=None) -> Study:
    """SGD tuned with these metrics, from the lowest rate up."""
    empty = begin(trials=len(metrics), workload=workload)
    trials = sorted(
        (t for t in due(empty) if t.name == space.name), key=lambda t: t.point[space.axes[0].name]
    )
    return empty.holding([record(t, m) for t, m in zip(trials, metrics, strict=True)])


def picked(metrics, **more) -> list[int]:
    """Which places, from the lowest rate up, are the candidates."""
    made = tuned(metrics, **more)
    return [made.tuning_of(SGD).index(r) for r in candidates(made, SGD)]


@pytest.mark.parametrize(
    ("metrics", "places"),
    [
        ([1.0, 3.0, 2.0], [1, 2]),
        ([3.0, 2.0, 1.0], [0, 1]),
        ([1.0, 5.0, 5.0, 5.0, 1.0], [2, 1]),
        ([5.0, 5.0, 5.0, 5.0, 5.0], [2, 1]),
        ([1.0, 5.0, 5.0, 1.0], [1, 2]),
        ([5.0, 1.0, 1.0, 5.0, 5.0], [3, 4]),
        ([1.0, 2.0, 5.0, 2.0], [2, 1]),
        ([None, 4.0, None], [1]),
        ([None, None], []),
    ],
)
def test_candidates_are_the_best_two_and_the_middle_of_equals(metrics, places):
    assert picked(metrics) == places


def test_candidates_of_errors_are_the_lowest():
    assert picked([3.0, 1.0, 2.0], workload=Line()) == [1, 2]


def test_candidates_do_not_depend_on_the_order_of_the_records():
    made = tuned([5.0, 5.0, 1.0, 5.0])
    assert candidates(made.holding(made.records[::-1]), SGD) == candidates(made, SGD)


def test_the_middle_of_equals_is_that_of_the_searched_rate():
    # With momentum searched as well, the lr argument is in another order than lr / (1 - momentum).
    empty = begin(trials=12)
    made = empty.holding([record(t, 50.0) for t in due(empty)])
    for space in SPACES:
        axis = space.axes[0].name
        rates = sorted(r.trial.point[axis] for r in made.tuning_of(space))
        best = candidates(made, space)[0].trial.point[axis]
        assert best in rates[5:7]


# Confirmation and choice


def test_the_best_two_are_confirmed_on_three_seeds_of_their_own():
    made = complete(begin(), peak(MIDDLE), peak(MIDDLE))
    first, confirmation, fresh = seeds(made.settings)
    for space in SPACES:
        runs = made.of(space, "confirm")
        best = [r.trial for r in candidates(made, space)]
        assert {(r.trial.settings["lr"], r.trial.seed) for r in runs} == {
            (trial.settings["lr"], seed) for trial in best for seed in confirmation
        }
    assert not set(confirmation) & {first, *fresh}


def test_the_better_mean_over_the_confirmation_seeds_is_chosen():
    empty = begin()
    _, confirmation, _ = seeds(empty.settings)
    found = {}

    def metric(trial):
        if trial.stage != "confirm":
            return peak(MIDDLE)(trial)
        # What was second in tuning has one bad seed and the better mean.
        first = trial.point == found.setdefault(trial.name, trial.point)
        return 50.0 if first else {confirmation[0]: 10.0}.get(trial.seed, 80.0)

    made = complete(empty, metric, peak(MIDDLE))
    for space in SPACES:
        best, second = candidates(made, space)
        assert chosen(made, space) is second
        assert {r.trial.settings["lr"] for r in made.final_of(space)} == {second.trial.settings["lr"]}
        tuning_only = made.holding([r for r in made.records if r.trial.stage == "tune"])
        assert chosen(tuning_only, space).trial == best.trial, "before they are confirmed, the best"


def test_the_lower_mean_is_chosen_where_that_is_better():
    def metric(trial):
        return abs(rate(trial) - MIDDLE[trial.name])

    made = complete(begin(workload=Line()), metric, metric)
    for space in SPACES:
        assert chosen(made, space) is candidates(made, space)[0]


def test_a_configuration_that_fails_on_a_confirmation_seed_loses():
    found = {}

    def metric(trial):
        if trial.stage != "confirm":
            return peak(MIDDLE)(trial)
        first = trial.point == found.setdefault(trial.name, trial.point)
        _, confirmation, _ = seeds(Settings(trials=8, seeds=3))
        return (None if trial.seed == confirmation[1] else 99.0) if first else 10.0

    made = complete(begin(), metric, peak(MIDDLE))
    for space in SPACES:
        assert chosen(made, space) is candidates(made, space)[1]


def test_a_single_candidate_needs_no_confirmation():
    def metric(trial):
        return 90.0 if 1.5 <= rate(trial) < 2 and trial.stage == "tune" else None

    made = complete(begin(trials=6), metric, peak(MIDDLE))
    alone = [space for space in SPACES if len(candidates(made, space)) == 1]
    assert alone
    for space in alone:
        assert made.of(space, "confirm") == []
        assert len(made.final_of(space)) == 3
    assert is_complete(made)


# Measuring


def test_final_seeds_are_paired_and_fresh():
    made = complete(begin(fresh=5), peak(MIDDLE), peak(MIDDLE))
    _, _, fresh = seeds(made.settings)
    for space in SPACES:
        assert [r.trial.seed for r in made.final_of(space)] == sorted(fresh)
    others = {r.trial.seed for r in made.records if r.trial.stage != "final"}
    assert not others & set(fresh)


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_all_seeds_of_a_study_are_different(seed):
    first, confirmation, fresh = seeds(Settings(seeds=50, seed=seed))
    assert len({first, *confirmation, *fresh}) == 1 + 3 + 50
    assert seeds(Settings(seeds=3, seed=seed))[2] == fresh[:3]


def test_whole_pairs_are_measured_first():
    made = complete(begin(fresh=4), peak(MIDDLE), peak(MIDDLE))
    finals = [t for t in due(made) if t.stage == "final"]
    for place in range(0, len(finals), 3):
        assert len({t.seed for t in finals[place : place + 3]}) == 1
        assert [t.name for t in finals[place : place + 3]] == list(MIDDLE)


def test_nothing_is_chosen_on_test():
    made = complete(begin(), peak(MIDDLE), peak(MIDDLE))
    turned = complete(begin(), peak(MIDDLE), lambda trial: -peak(MIDDLE)(trial))
    assert [r.trial for r in made.records] == [r.trial for r in turned.records]


# Failures


@pytest.mark.parametrize("kind", ["diverged", "out of memory", "time limit", "killed"])
def test_failures_of_any_kind_never_block(kind):
    study = begin()
    records = []
    while todo := [t for t in due(study) if t.key not in {r.trial.key for r in records}]:
        records += [
            failed(t, Failure(kind, "no")) if (hash(t.key) + i) % 3 else record(t, 1.0)
            for i, t in enumerate(todo)
        ]
        study = study.holding(records)
    assert is_complete(study) == (kind not in ACCIDENTS)
    assert {r.trial.stage for r in records} >= {"tune", "final"}


def below(limit: float):
    """SGD diverges above so many decades from the bottom of its range; below it is the better the lower."""

    def metric(trial):
        if trial.name != "sgd":
            return peak(MIDDLE)(trial)
        return None if rate(trial) > limit else 95.0 - abs(rate(trial) - limit + 0.5)

    return metric


@pytest.mark.parametrize("limit", [-0.3, -2.5])
def test_an_optimizer_that_diverges_everywhere_is_searched_below_its_range(limit):
    made = complete(begin(trials=8), below(limit), below(limit))
    best = chosen(made, SGD)
    assert best is not None
    assert abs(rate(best.trial) - limit + 0.5) < 0.5
    assert len(made.final_of(SGD)) == 3
    worked = [r for r in made.tuning_of(SGD) if r.failure is None]
    assert len(worked) >= 6, "it has about as many trials that say something as the others"
    assert count(made, "extend")["sgd"] > count(made, "extend").get("adamw", 0)
    assert is_complete(made)


def test_what_accidents_took_is_no_reason_to_search_lower():
    study = begin()
    tried = [failed(t, Failure("killed", "no")) if t.name == "sgd" else record(t, 1.0) for t in due(study)]
    more = [t for t in due(study.holding(tried)) if t.stage == "extend"]
    assert {t.name for t in more} <= {"rmsprop", "adamw", "sgd"}
    assert not any(rate(t) < 0 for t in more if t.name == "sgd")


def test_an_optimizer_that_always_fails_is_not_measured_and_the_others_are():
    made = complete(begin(), lambda t: None if t.name == "sgd" else peak(MIDDLE)(t), peak(MIDDLE))
    assert chosen(made, SGD) is None
    assert count(made, "final") == {"rmsprop": 3, "adamw": 3}
    assert is_complete(made)


def test_a_study_in_which_everything_fails_ends():
    made = complete(begin(), lambda trial: None, lambda trial: None)
    assert is_complete(made)
    assert count(made, "tune") == same(8)
    assert count(made, "extend") == same(DESCENTS * 2)
    assert count(made, "confirm", "final") == {}


# Going on


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 4), st.integers(1, 6), st.randoms(use_true_random=False))
def test_any_part_of_the_records_goes_on_to_the_same_whole(salt, kinds, trials, random):
    metric = drawn(salt, kinds)
    empty = begin(trials=trials, fresh=2)
    whole = complete(empty, metric, metric)
    made = {r.trial.key: r for r in whole.records}
    # A part in any order, then some of what is due at a time, as several machines finish it.
    held = dict(random.sample(list(made.items()), random.randint(0, len(made))))
    while todo := [t for t in due(empty.holding(list(held.values()))) if t.key not in held]:
        for trial in random.sample(todo, random.randint(1, len(todo))):
            held[trial.key] = made[trial.key]
    ended = [t.key for t in due(empty.holding(random.sample(list(held.values()), len(held))))]
    assert ended == [r.trial.key for r in whole.records]
    assert len(ended) == len(set(ended))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 4), st.integers(1, 9))
def test_budgets_are_equal_whatever_happens(salt, kinds, trials):
    made = complete(begin(trials=trials, fresh=2), drawn(salt, kinds), drawn(salt, kinds))
    low = [space.name for space in SPACES if was_all_too_high(made, space)]
    extended = {name: runs for name, runs in count(made, "extend").items() if name not in low}
    if low:
        extended |= dict.fromkeys(low, next(iter(extended.values()))) if extended else {}
    assert count(made, "tune") == same(trials)
    assert len(set(extended.values())) <= 1
    assert extended in (
        {},
        same(protocol.extension(made.settings)),
        same(2 * protocol.extension(made.settings)),
    )
    for space in SPACES:
        finals = len(made.final_of(space))
        assert finals == (2 if candidates(made, space) else 0)
        assert len(made.of(space, "confirm")) == (6 if len(candidates(made, space)) > 1 else 0)


def test_more_seeds_keep_what_was_measured():
    made = complete(begin(fresh=2), peak(MIDDLE), peak(MIDDLE))
    more = replace(made, settings=replace(made.settings, seeds=4))
    assert {r.trial.key for r in made.records} < {t.key for t in due(more)}


def test_an_optimizer_whose_searched_rate_is_no_lr_is_tuned_like_others():
    own = Space("dadapt", "mypkg.DAdapt", [Axis("d0", 1e-6, 1e-2)])
    made = complete(begin(of=[own, SGD]), lambda t: 5.0, lambda t: 5.0)
    assert is_complete(made)
    assert len(made.final_of(own)) == 3
