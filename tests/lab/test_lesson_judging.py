import math
import statistics

import numpy as np
import pytest

from thalweg.lab.lesson import judging
from thalweg.lab.lesson.judging import closed, measured, needed_seeds, together
from thalweg.lab.lesson.scale import FACTOR, POINTS, Scale

CLEAR = [1.9, 2.1, 2.0, 2.2, 1.8, 2.0, 2.1, 1.9, 2.05, 1.95, 2.1, 1.9]
SMALL = [value - 1.9 for value in CLEAR]
WIDE = [4.0, -3.0, 2.0, 0.0, 5.0, -2.0, 1.0, 3.0, -4.0, 2.5, 0.5, -1.0]


def test_beyond_the_margin_is_supported():
    verdict = measured(CLEAR, 0.5)
    assert verdict.kind == "supported"
    assert 0.5 < verdict.low < statistics.fmean(CLEAR) < verdict.high
    assert verdict.p == pytest.approx(2 / 2**12)


@pytest.mark.parametrize("values", [SMALL, [-value for value in CLEAR]])
def test_equal_within_the_margin_or_the_other_way_is_refuted(values):
    assert measured(values, 0.5).kind == "refuted"


def test_what_may_be_either_is_inconclusive_and_says_how_many_seeds_would_tell():
    verdict = measured(WIDE, 0.5)
    assert verdict.kind == "inconclusive"
    assert verdict.low < 0.5 < verdict.high
    assert verdict.needed is not None
    assert verdict.needed > len(WIDE)


@pytest.mark.parametrize("values", [CLEAR[:1], CLEAR[:2]])
def test_too_few_seeds_say_nothing(values):
    verdict = measured(values, 0.5)
    assert verdict.kind == "inconclusive"
    assert math.isnan(verdict.low)


def test_nothing_run_is_not_run():
    assert measured([], 0.5).kind == "not run"


def test_p_is_adjusted_for_all_claims():
    many = {str(i): CLEAR for i in range(20)}
    alone, among = measured(CLEAR, 0.5), together(many, dict.fromkeys(many, 0.5))["0"]
    assert among.p_holm == pytest.approx(20 * alone.p)
    assert among.kind == "supported"
    far = together({**many, "rest": []}, dict.fromkeys([*many, "rest"], 0.5), claims=200)
    assert far["0"].p_holm == pytest.approx(min(1.0, 200 * alone.p))
    assert far["0"].kind == "inconclusive", "p of 0.1 does not support, whatever the interval"
    assert far["rest"].kind == "not run"


def test_a_refutation_needs_no_small_p():
    found = together(
        {"a": SMALL, **{str(i): WIDE for i in range(100)}},
        dict.fromkeys(map(str, range(100)), 0.5) | {"a": 0.5},
    )
    assert found["a"].kind == "refuted"


def test_seeds_that_it_would_take_are_more_where_the_mean_is_near_the_margin():
    near = [value + 0.4 for value in WIDE]
    assert needed_seeds(near, statistics.fmean(near) + 0.1) > needed_seeds(near, statistics.fmean(near) + 1.0)
    assert needed_seeds(near, statistics.fmean(near)) == math.inf


def test_a_remedy_that_closes_half():
    rng = np.random.default_rng(0)
    without = rng.normal(10, 0.5, 12)
    rival = without + 4 + rng.normal(0, 0.1, 12)
    remedied = without + 2 + rng.normal(0, 0.1, 12)
    found = closed(without, remedied, rival)
    assert found.share == pytest.approx(0.5, abs=0.05)
    assert found.low < 0.5 < found.high
    assert found.high - found.low < 0.2
    assert found.text().startswith("closes 5") or found.text().startswith("closes 4")


def test_no_gap_has_no_share():
    found = closed(WIDE, CLEAR, [w + n for w, n in zip(WIDE, WIDE[::-1], strict=True)])
    assert found.share is None
    assert "no gap" in found.text()


def test_who_is_ahead_without_a_remedy_has_no_gap_to_close():
    found = closed(CLEAR, [c + 1 for c in CLEAR], SMALL)
    assert found.share is None
    assert found.leads
    assert found.text() == "no gap: ahead of the rival without it, so none to close"
    assert closed([-4.0], [-2.0], [-8.0]).leads


def test_what_is_counted_has_a_share_without_an_interval():
    found = closed([-8.0], [-2.0], [-4.0])
    assert found.share == pytest.approx(1.5)
    assert found.text() == "closes 150 % of the gap"


def test_the_interval_of_a_share_holds_it_as_often_as_it_says():
    rng, held = np.random.default_rng(1), 0
    for _ in range(60):
        without = rng.normal(0, 1, 12)
        gap = rng.normal(3, 0.8, 12)
        remedied = without + 0.6 * 3 + rng.normal(0, 0.8, 12)
        found = closed(without, remedied, without + gap)
        held += found.low <= 0.6 <= found.high
    assert held >= 52, "95 % of 60 are 57; fewer than 52 would be seen once in hundreds"


def test_how_numbers_are_said():
    assert FACTOR.text(math.log(2)) == "2.00 times the steps"
    assert FACTOR.number(math.log(250)) == "250"
    assert POINTS.text(-0.5) == "-0.50 points"
    turned = Scale(-math.log(2), "times", logarithmic=True, turned=True)
    assert turned.number(-math.log(3)) == "3.00"
    assert turned.number(turned.margin) == "2.00"
    assert turned.ordered(-1.0, 2.0) == (2.0, -1.0)


def test_the_verdicts_levels_are_the_labs():
    assert judging.ERROR == 0.05


@pytest.mark.parametrize("share", [-30.0, -3.4, 0.0, 0.05, 1.0, 12.0])
def test_ends_of_a_share_are_where_zero_stops_being_held(share):
    rng = np.random.default_rng(3)
    without, gap = rng.normal(0, 1, 12), rng.normal(3, 0.3, 12)
    found = closed(without, without + share * gap + rng.normal(0, 0.2, 12), without + gap)
    assert found.low < found.share < found.high
    assert found.share == pytest.approx(share, abs=0.3)
    assert found.high - found.low < 0.5 + 0.3 * abs(share)
