import logging
import math

import pytest

from thalweg.lab import spaces
from thalweg.lab.search import learning_rates

SGD, ADAMW = spaces.find("sgd"), spaces.find("adamw")


def place(space: spaces.Space, lr: float) -> float:
    """Where a rate lies in its range, from 0 to 1, on a logarithmic scale."""
    return math.log(lr / space.low) / math.log(space.high / space.low)


@pytest.mark.parametrize("seed", range(5))
def test_rates_are_spread_evenly_from_the_first_trial_on(seed):
    # A scrambled Sobol sequence puts one of its first eight points in each eighth.
    places = [place(SGD, lr) for lr in learning_rates(SGD, 8, seed)]
    assert sorted(int(8 * p) for p in places) == list(range(8))


def test_every_optimizer_is_tried_at_the_same_places_of_its_range():
    sgd = [place(SGD, lr) for lr in learning_rates(SGD, 16, 3)]
    adamw = [place(ADAMW, lr) for lr in learning_rates(ADAMW, 16, 3)]
    assert sgd == pytest.approx(adamw, abs=1e-3)


def test_more_trials_begin_with_fewer():
    assert learning_rates(SGD, 20, 1)[:5] == learning_rates(SGD, 5, 1)


def test_seeds_decide():
    assert learning_rates(SGD, 4, 1) == learning_rates(SGD, 4, 1)
    assert learning_rates(SGD, 4, 1) != learning_rates(SGD, 4, 2)


def test_a_rate_is_what_is_printed():
    for lr in learning_rates(ADAMW, 16, 0):
        assert float(f"{lr:.3g}") == lr
        assert ADAMW.low <= lr <= ADAMW.high


def test_nothing_is_logged(capfd, recwarn):
    logging.getLogger("optuna").handlers.clear()
    learning_rates(SGD, 2, 0)
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
