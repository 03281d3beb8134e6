import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import Line, study

from thalweg.lab.verdict import judge
from thalweg.lab.wording import listed

SGD = [90.0, 90.5, 91.0, 90.2, 90.7, 90.4, 90.1, 90.9]


def shifted(by: float) -> list[float]:
    return [value + by for value in SGD]


def leaders(verdict) -> list[str]:
    return [row.space.name for row in verdict.leaders]


def test_a_lead_beyond_the_margin_wins():
    verdict = judge(study({"sgd": SGD, "adamw": shifted(0.6)}))
    assert (verdict.kind, leaders(verdict)) == ("winner", ["adamw"])
    assert verdict.headline == "AdamW wins"
    assert "0.60 points ahead of SGD (95 % interval 0.60 to 0.60)" in verdict.sentence
    assert "beyond the margin of 0.5 points" in verdict.sentence


def test_a_lead_within_the_margin_ties():
    verdict = judge(study({"sgd": SGD, "adamw": shifted(0.4)}))
    assert (verdict.kind, leaders(verdict)) == ("tie", ["adamw", "sgd"])
    assert verdict.headline == "Tie between AdamW and SGD"
    assert "within the margin of 0.5 points" in verdict.sentence


def test_a_large_but_uncertain_lead_ties():
    noise = [3.0, -2.0, 4.0, -1.0, 3.5, -2.5, 3.0, 1.0]
    verdict = judge(study({"sgd": SGD, "adamw": [a + b for a, b in zip(SGD, noise, strict=True)]}))
    assert verdict.kind == "tie"
    assert "not surely more than the margin" in verdict.sentence


def test_two_may_tie_ahead_of_a_third():
    verdict = judge(study({"sgd": SGD, "adam": shifted(2.0), "adamw": shifted(2.1)}))
    assert (verdict.kind, leaders(verdict)) == ("tie", ["adamw", "adam"])
    assert "against Adam that is within" in verdict.sentence


def test_margin_decides():
    tests = {"sgd": SGD, "adamw": shifted(0.6)}
    assert judge(study(tests, margin=0.0)).kind == "winner"
    assert judge(study(tests, margin=1.0)).kind == "tie"


def test_lower_is_better_where_the_workload_says_so():
    verdict = judge(study({"sgd": SGD, "adamw": shifted(2.0)}, workload=Line()))
    assert leaders(verdict) == ["sgd"]


def test_too_few_seeds_give_no_verdict_and_exclude_nobody():
    verdict = judge(study({"sgd": SGD[:5], "adamw": shifted(9.0)[:5]}))
    assert (verdict.kind, leaders(verdict)) == ("none", ["adamw", "sgd"])
    assert verdict.headline.startswith("No verdict")


def test_an_optimizer_that_diverged_on_a_seed_never_leads():
    verdict = judge(study({"sgd": SGD, "adamw": [*shifted(5.0)[:-1], None]}))
    assert leaders(verdict) == ["sgd"]
    assert any("AdamW diverged on 1 of 8 seeds" in note for note in verdict.notes)


def test_nobody_leads_when_all_diverged():
    verdict = judge(study({"sgd": [None] * 8, "adamw": [None] * 8}))
    assert (verdict.kind, leaders(verdict), verdict.code) == ("none", [], [])


def test_a_best_rate_at_the_border_is_noted():
    tuning = {"sgd": [90.0, 80.0, 70.0], "adamw": [70.0, 90.0, 80.0]}
    notes = judge(study({"sgd": SGD, "adamw": SGD}, tuning=tuning)).notes
    assert [note for note in notes if "border" in note and note.startswith("SGD's")]
    assert not [note for note in notes if "border" in note and note.startswith("AdamW's")]


def test_diverged_trials_are_noted():
    tuning = {"sgd": [80.0, 90.0, None], "adamw": [70.0, 90.0, 80.0]}
    notes = judge(study({"sgd": SGD, "adamw": SGD}, tuning=tuning)).notes
    assert "SGD diverged in 1 of 3 trials." in notes


@settings(max_examples=40)
@given(
    st.lists(st.tuples(*[st.integers(80, 84)] * 4), min_size=6, max_size=8),
    st.randoms(use_true_random=False),
)
def test_verdict_does_not_depend_on_the_order_of_the_optimizers(seeds, order):
    names = ["sgd", "adam", "adamw", "rmsprop"]
    tests = {name: [float(metrics[place]) for metrics in seeds] for place, name in enumerate(names)}
    shuffled = random.Random(order.random()).sample(names, len(names))
    here, there = judge(study(tests)), judge(study({name: tests[name] for name in shuffled}))
    assert (here.kind, leaders(here)) == (there.kind, leaders(there))
    assert (here.headline, here.sentence) == (there.headline, there.sentence)


@pytest.mark.parametrize(
    ("items", "text"),
    [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")],
)
def test_listed(items, text):
    assert listed(items) == text
