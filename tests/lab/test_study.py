import multiprocessing
import os
import signal
from collections import Counter

import pytest
from samples import Line, record, study

from thalweg.lab import spaces
from thalweg.lab.pool import Pool, WorkerDiedError
from thalweg.lab.study import Settings, choose, compare, seeds
from thalweg.lab.trial import Trial

SPACES = [spaces.find(name) for name in ("sgd", "rmsprop", "adamw")]
SETTINGS = Settings(trials=4, seeds=3, margin=0.01, seed=5)


def measured(workers: int, workload: Line | None = None, **more):
    with Pool(workers) as pool:
        return compare(workload or Line(), SPACES, SETTINGS, pool=pool, **more)


@pytest.fixture(scope="module")
def alone():
    return measured(workers=1)


def test_every_optimizer_gets_the_same_budget(alone):
    tuning = Counter(r.trial.space.name for r in alone.tuning)
    final = Counter(r.trial.space.name for r in alone.final)
    assert tuning == {space.name: SETTINGS.trials for space in SPACES}
    assert final == {space.name: SETTINGS.seeds for space in SPACES}


def test_runs_are_paired(alone):
    tuning_seed, fresh = seeds(SETTINGS)
    for space in SPACES:
        assert {r.trial.seed for r in alone.tuning_of(space)} == {tuning_seed}
        assert [r.trial.seed for r in alone.final_of(space)] == fresh
    # Before training nothing but the initial weights decides, so equal metrics are equal weights.
    for runs in zip(*(alone.final_of(space) for space in SPACES), strict=True):
        assert len({run.curve[0].metric for run in runs}) == 1
    assert len({run.curve[0].metric for run in alone.final}) == SETTINGS.seeds


def test_fresh_seeds_are_fresh():
    tuning_seed, fresh = seeds(Settings(seeds=50))
    assert len({tuning_seed, *fresh}) == 51


def test_final_runs_use_the_rate_that_was_best_on_validation(alone):
    for space in SPACES:
        best = min(alone.tuning_of(space), key=lambda r: r.validation.metric)
        assert {r.trial.lr for r in alone.final_of(space)} == {best.trial.lr}


def test_records_do_not_depend_on_the_number_of_workers(alone):
    ended = []
    together = measured(workers=2, done=ended.append)
    assert together.tuning == alone.tuning
    assert together.final == alone.final
    assert len(ended) == len(together.tuning) + len(together.final)


def test_divergence_does_not_end_the_study():
    found = measured(workers=1, workload=Line(scale=1e6))
    sgd, rmsprop, _ = SPACES
    assert found.chosen(sgd) is None
    assert all(r.diverged_at is not None for r in found.tuning_of(sgd))
    assert found.final_of(sgd) == []
    assert len(found.final_of(rmsprop)) == SETTINGS.seeds


def test_a_killed_worker_is_an_error_and_leaves_no_process():
    before = set(multiprocessing.active_children())
    with Pool(2) as pool:
        victim = (set(multiprocessing.active_children()) - before).pop()
        os.kill(victim.pid, signal.SIGKILL)
        with pytest.raises(WorkerDiedError, match="was killed"):
            compare(Line(), SPACES, SETTINGS, pool=pool)
    assert set(multiprocessing.active_children()) <= before


def test_the_best_metric_is_chosen_and_the_middle_rate_of_equals():
    def made(lr, metric):
        return record(Trial("tune", SPACES[0], lr, 0), metric)

    worse, low, middle, high = made(0.3, 80.0), made(0.01, 90.0), made(0.02, 90.0), made(0.1, 90.0)
    assert choose([high, worse, low, middle], higher_is_better=True) is middle
    assert choose([high, low], higher_is_better=True) is low
    assert choose([high, worse, low], higher_is_better=False) is worse
    assert choose([made(0.1, None), high], higher_is_better=True) is high
    assert choose([made(0.1, None)], higher_is_better=True) is None


def test_border_means_that_nothing_was_tried_beyond():
    tests = {"sgd": [1.0], "adam": [1.0], "adamw": [1.0]}
    tuning = {"sgd": [9.0, 1.0, 1.0], "adam": [1.0, 9.0, 1.0], "adamw": [1.0, 9.0, None]}
    made = study(tests, tuning=tuning)
    assert [made.on_border(space) for space in made.spaces] == [True, False, False]
