import logging
import math
from itertools import combinations

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.lab import spaces
from thalweg.lab.spaces import Axis
from thalweg.lab.spaces.search import points

SGD, RMSPROP, ADAMW = map(spaces.find, ("sgd", "rmsprop", "adamw"))


def places(axes: list[Axis], count: int, seed: int, skip: int = 0) -> list[list[float]]:
    """Where the points lie in their ranges, from 0 to 1, on a logarithmic scale, an axis after the other."""
    found = points(axes, count, seed, skip)
    return [
        [math.log(point[axis.name] / axis.low) / math.log(axis.high / axis.low) for point in found]
        for axis in axes
    ]


@pytest.mark.parametrize("seed", range(5))
def test_points_are_spread_evenly_on_every_axis_from_the_first_on(seed):
    # A scrambled Sobol sequence puts one of its first eight points in each eighth of every axis.
    for axis in places(ADAMW.searched(25), 8, seed):
        assert sorted(int(8 * place) for place in axis) == list(range(8))


@pytest.mark.parametrize("seed", range(3))
def test_points_are_spread_evenly_over_every_two_axes(seed):
    # Not points on a line: of the first 64, each sixteenth of the square of two axes has some.
    axes = places(ADAMW.searched(25), 64, seed)
    for one, other in combinations(axes, 2):
        assert {(int(4 * x), int(4 * y)) for x, y in zip(one, other, strict=True)} >= {
            (i, j) for i in range(4) for j in range(4)
        }


@pytest.mark.parametrize("trials", [9, 24])
def test_optimizers_with_as_many_axes_are_tried_at_the_same_places(trials):
    sgd = places(SGD.searched(trials), trials, 3)
    for space in (RMSPROP, ADAMW):
        other = places(space.searched(trials), trials, 3)
        assert len(sgd) == len(other)
        for ours, theirs in zip(sgd, other, strict=True):
            assert ours == pytest.approx(theirs, abs=2e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 12), st.integers(1, 12), st.integers(0, 3), st.sampled_from([1, 10, 25]))
def test_skipping_goes_on_where_fewer_points_ended(skip, count, seed, trials):
    axes = ADAMW.searched(trials)
    whole = points(axes, skip + count, seed)
    assert whole[:skip] == points(axes, skip, seed)
    assert whole[skip:] == points(axes, count, seed, skip=skip)


def test_seeds_decide():
    axes = SGD.searched(10)
    assert points(axes, 4, 1) == points(axes, 4, 1)
    assert points(axes, 4, 1) != points(axes, 4, 2)


def test_a_value_is_what_is_printed_and_lies_in_its_range():
    axes = ADAMW.searched(25)
    for point in points(axes, 64, 0):
        assert list(point) == [axis.name for axis in axes]
        for axis in axes:
            assert float(f"{point[axis.name]:.3g}") == point[axis.name]
            assert axis.low <= point[axis.name] <= axis.high


def test_nothing_is_logged_and_optunas_verbosity_is_left_alone(capfd, recwarn):
    logging.getLogger("optuna").handlers.clear()
    before = optuna.logging.get_verbosity()
    points(SGD.searched(1), 2, seed=987)
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    assert optuna.logging.get_verbosity() == before


@pytest.mark.parametrize("seed", [0, 2**31, 2**32 - 1])
def test_any_seed_that_the_command_takes_gives_points(seed):
    assert len(points(SGD.searched(1), 3, seed)) == 3
