"""What is said of why optimizers end where they end: no more than the intervals say."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from samples import study

from thalweg.lab.judging import explanation, levels
from thalweg.lab.judging.levels import ADAPTIVE, BOUND, NOISE, SHARPNESS, STEP, TRACE
from thalweg.lab.judging.missing import missing
from thalweg.lab.judging.verdict import judge
from thalweg.lab.showing import figures, results
from thalweg.lab.showing.figures.updates import spread, ticks
from thalweg.lab.showing.report import render
from thalweg.lab.showing.result import Result
from thalweg.lab.study.why import Found, Why

TESTS = {"sgd": [90.0, 90.5, 91.0, 90.2], "adamw": [91.0, 91.5, 92.0, 91.2]}
PROVENANCE = results.Provenance(datetime(2026, 1, 2, tzinfo=UTC), 60, 2, {"torch": "2.11"})


def why(sharpness, bound=10.0, noise=640.0, signal=1.0, step=0.01, **more):
    values = {
        "updates": {"0.weight": step, "0.<bias>": step, "1.weight": 4 * step},
        "noise": noise,
        "signal": signal,
        "sharpness": Found(sharpness, 0.01),
        "steered": Found(sharpness, 0.01),
        "bound": bound,
        "trace": Found(3 * sharpness, 0.1),
        "adaptive": Found(0.5, 0.01),
        "examples": 256,
        "seconds": 0.1,
    }
    return Why(**{**values, **more})


def explained(**whys):
    """A study in which these were measured beside each optimizer's final runs, seed by seed."""
    made = study({**TESTS, **{name: TESTS["sgd"] for name in whys if name not in TESTS}})
    seeds = sorted({r.trial.seed for r in made.records if r.trial.stage == "final"})
    return made.holding(
        [
            replace(r, why=whys[r.trial.name][seeds.index(r.trial.seed)])
            if r.trial.stage == "final" and r.trial.name in whys
            else r
            for r in made.records
        ]
    )


CLEAR = {
    "sgd": [why(s, noise=n, step=0.01) for s, n in ((1.0, 630.0), (1.1, 650.0), (0.9, 640.0), (1.05, 620.0))],
    "adamw": [why(30 * s, noise=n, step=0.02) for s, n in ((1.0, 6.3), (1.1, 6.5), (0.9, 6.4), (1.05, 6.2))],
}
NAMES = {"sgd": "SGD", "adamw": "AdamW"}


def space(made, name):
    return next(one for one in made.spaces if one.name == name)


def test_levels_are_geometric_means_with_intervals():
    made = explained(**CLEAR)
    found = levels.level(made, space(made, "sgd"), SHARPNESS)
    assert found.value == pytest.approx((1.0 * 1.1 * 0.9 * 1.05) ** 0.25)
    assert found.low < found.value < found.high
    assert found.seeds == 4
    assert levels.level(made, space(made, "adamw"), BOUND).value == pytest.approx(3 * found.value)
    assert levels.level(made, space(made, "sgd"), STEP).value == pytest.approx(1.0)
    alone = levels.level_of([2.0])
    assert (alone.value, alone.low, alone.high) == (pytest.approx(2), None, None)
    assert levels.level_of([-1.0, 3.0]).value == 1


def test_sentences_name_who_surely_has_the_least():
    made = explained(**CLEAR)
    assert explanation.finding(made, SHARPNESS) == "SGD surely ends where the training loss is least sharp."
    assert explanation.finding(made, TRACE) == "SGD surely ends where the trace is least."
    assert explanation.finding(made, STEP) == "SGD surely takes the smallest steps."
    assert "Whether" in explanation.finding(made, ADAPTIVE), "they are equal"
    assert explanation.finding(made, BOUND) == (
        "The bound is 10 for SGD and 10 for AdamW. At the highest rate, steps without noise would surely "
        "settle at the end of SGD and would surely not settle at the end of AdamW."
    )
    assert explanation.finding(made, NOISE) == (
        "A gradient of 8 examples is surely more noise than signal at the end of SGD and is surely more "
        "signal than noise at the end of AdamW."
    )


def test_what_the_seeds_do_not_tell_is_said_so():
    wide = [why(s, noise=n) for s, n in ((0.1, 1.0), (40.0, 90.0), (3.0, 2.0), (15.0, 20.0))]
    made = explained(sgd=wide, adamw=wide[::-1])
    assert (
        explanation.finding(made, SHARPNESS) == "Whether SGD or AdamW has the least, the seeds do not tell."
    )
    assert explanation.finding(made, BOUND).endswith("the seeds do not tell of SGD and AdamW.")
    assert "surely" not in explanation.finding(made, NOISE)


def test_a_seed_alone_says_nothing():
    made = explained(sgd=[CLEAR["sgd"][0], None, None, None], adamw=[CLEAR["adamw"][0], None, None, None])
    assert explanation.finding(made, SHARPNESS) == ""
    assert "surely" not in explanation.finding(made, BOUND)
    assert levels.bracketed(levels.level(made, space(made, "sgd"), SHARPNESS)) == "one seed"


def test_a_signal_that_noise_hides_gives_a_least_noise_scale():
    lost = [why(1.0, noise=n, signal=s) for n, s in ((100.0, -1.0), (110.0, 0.5), (90.0, -0.3), (95.0, 0.2))]
    made = explained(sgd=lost, adamw=CLEAR["adamw"])
    found = levels.level(made, space(made, "sgd"), NOISE)
    assert found.value == found.high == math.inf
    assert found.low > 8
    assert levels.valued(found) == f"\u2265\u00a0{levels.written(found.low)}"
    assert "more noise than signal at the end of SGD" in explanation.finding(made, NOISE)


def test_what_is_missing_is_told_in_a_line_each():
    none = Why(missing={"curvature": "of reasons", "noise": "of others"})
    some = [none, *CLEAR["sgd"][1:]]
    made = explained(sgd=some, adamw=[none] * 4)
    assert missing(made) == [
        "Sharpness and trace: not of SGD on 1 of 4 seeds and AdamW, as of reasons.",
        "The noise scale: not of SGD on 1 of 4 seeds and AdamW, as of others.",
    ]
    assert "SGD" in explanation.size_of_steps(made)


MANY = ("sgd", "adamw", "adam", "nadam", "radam")


def test_reasons_that_differ_in_figures_alone_are_one_line():
    reason = "32 products would take about {} s, and 20 % of the time of the runs leave 1e-05 s"

    def left(*seconds):
        none = [Why(missing={"curvature": reason.format(s)}) for s in seconds]
        return none + [why(1.0)] * (4 - len(none))

    made = explained(**{name: left(*["1,200", "0.5"][: 1 + n % 2]) for n, name in enumerate(MANY)})
    assert missing(made) == [
        "Sharpness and trace: not of SGD, AdamW, Adam and 2 others on 1 to 2 of 4 seeds, as "
        f"{reason.format('0.5 to 1,200')}."
    ]


def test_optimizers_without_a_bound_are_one_line():
    of = {"adamax": "Adamax", "radam": "RAdam"}
    whys = {n: [Why(missing={"bound": f"no bound is known for {title}"})] * 4 for n, title in of.items()}
    assert missing(explained(**whys)) == [
        "A bound of stability: not of Adamax and RAdam, as no bound is known."
    ]


def test_findings_of_many_name_a_few():
    wide = [why(s, noise=n) for s, n in ((0.1, 1.0), (40.0, 90.0), (3.0, 2.0), (15.0, 20.0))]
    made = explained(**{name: wide[n % 4 :] + wide[: n % 4] for n, name in enumerate(MANY)})
    assert re.fullmatch(
        r"Who of \w+, \w+, \w+ and 2 others has the least, the seeds do not tell\.",
        explanation.finding(made, SHARPNESS),
    )
    assert explanation.finding(made, BOUND).endswith(
        "the seeds do not tell of SGD, AdamW, Adam and 2 others."
    )
    assert explanation.finding(made, BOUND).startswith("The bound is 10 for SGD to 10 for RAdam. ")


def test_numbers_are_short():
    values = {
        0.0: "0",
        0.404: "0.404",
        3551.4: "3,551",
        1.234e-7: "1.2e-7",
        2.5e9: "2.5e9",
        -42.0: "\u221242",
    }
    assert {value: levels.written(value) for value in values} == values


def test_the_report_shows_it_and_escapes_names():
    made = explained(**CLEAR)
    page = render(made, judge(made), PROVENANCE)
    assert "Why they end where they end" in page
    assert "SGD surely ends where the training loss is least sharp." in page
    assert 'id="updates"' in page
    assert "0.<bias>" not in page
    plot = Result(made, judge(made), PROVENANCE).figures["updates"]
    assert len(plot.data) == 2
    assert list(plot.layout.yaxis.ticktext) == ["0.weight ", "0.&lt;bias&gt; ", "1.weight "]
    assert sorted(plot.data[0].x) == pytest.approx([2, 2, 8])


def test_a_study_without_it_has_no_such_section():
    made = study(TESTS)
    assert "Why they end" not in render(made, judge(made), PROVENANCE)
    assert figures.updates(made, judge(made)) is None
    assert json.loads(results.to_json(made, judge(made), PROVENANCE))["why"] == {}


def test_results_hold_it_over_seeds_and_of_each_run():
    made = explained(**CLEAR)
    document = json.loads(results.to_json(made, judge(made), PROVENANCE))
    sharp = document["why"]["quantities"]["sharpness"]
    assert sharp["levels"]["sgd"]["seeds"] == 4
    assert sharp["finding"].startswith("SGD surely")
    place = next(i for i, r in enumerate(document["records"]) if r["stage"] == "final")
    assert results.record(document, place).why == made.records[place].why


def test_a_long_model_is_thinned_and_an_axis_has_few_ticks():
    assert spread(3) == [0, 1, 2]
    assert len(set(spread(161))) == 24
    assert (spread(161)[0], spread(161)[-1]) == (0, 160)
    assert [tick for tick in ticks(0.3, 4.0) if 0.3 <= tick <= 4] == [0.5, 1, 2]
    assert all(math.log10(tick) == round(math.log10(tick)) for tick in ticks(1e-6, 10))
