import random
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import Line, Scores, study
from torch import nn

from thalweg.lab.judging.verdict import judge
from thalweg.lab.judging.wording import listed
from thalweg.lab.spaces import Recipe, code
from thalweg.lab.study import protocol

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


def test_a_lead_within_the_margin_is_equivalence():
    verdict = judge(study({"sgd": SGD, "adamw": shifted(0.4)}))
    assert (verdict.kind, leaders(verdict)) == ("equivalent", ["adamw", "sgd"])
    assert verdict.headline == "AdamW and SGD are equivalent"
    assert "against SGD it lies within the margin of 0.5 points" in verdict.sentence


def test_a_large_but_uncertain_lead_is_not_told_and_it_is_said_what_it_would_take():
    noise = [3.0, -2.0, 4.0, -1.0, 3.5, -2.5, 3.0, 1.0]
    verdict = judge(study({"sgd": SGD, "adamw": [a + b for a, b in zip(SGD, noise, strict=True)]}))
    assert verdict.kind == "open"
    assert verdict.headline == "AdamW and SGD are not told apart"
    assert "it is not told apart from SGD, which would take about" in verdict.sentence
    assert verdict.comparisons[0].seeds_needed > 8


def test_a_lead_that_is_sure_but_perhaps_small_is_said_to_be_so():
    noise = [0.1, -0.2, 0.15, -0.05, 0.1, -0.1, 0.2, 0.0]
    tests = {"sgd": SGD, "adamw": [a + b + 0.5 for a, b in zip(SGD, noise, strict=True)]}
    verdict = judge(study(tests, tuning={name: [90.0] * 3 for name in tests}))
    assert (verdict.kind, verdict.comparisons[0].better) == ("open", True)
    assert "it is ahead, but not surely by more than the margin of 0.5 points, of SGD" in verdict.sentence


def test_losses_of_a_hundred_millionth_have_digits():
    small = [1e-8 * value for value in SGD]
    tests = {"sgd": small, "adamw": [1.1 * value for value in small]}
    tuning = {name: [2e-8] * 3 for name in tests}
    sentence = judge(study(tests, tuning=tuning, workload=Line(), margin=1e-9)).sentence
    assert "0.000000" not in sentence
    assert re.search(
        r"SGD is on average 9\.05e-8 ahead of AdamW \(95 % interval \S+e-8 to \S+e-8\)", sentence
    )


def test_two_may_tie_ahead_of_a_third():
    verdict = judge(study({"sgd": SGD, "adam": shifted(2.0), "adamw": shifted(2.1)}))
    assert (verdict.kind, leaders(verdict)) == ("equivalent", ["adamw", "adam"])
    assert "against Adam it lies within" in verdict.sentence


def test_margin_decides():
    tests = {"sgd": SGD, "adamw": shifted(0.6)}
    assert judge(study(tests, margin=0.0)).kind == "winner"
    assert judge(study(tests, margin=1.0)).kind == "equivalent"


def test_lower_is_better_where_the_workload_says_so():
    verdict = judge(study({"sgd": SGD, "adamw": shifted(2.0)}, workload=Line()))
    assert leaders(verdict) == ["sgd"]


def test_too_few_seeds_give_no_verdict_and_exclude_nobody():
    verdict = judge(study({"sgd": SGD[:5], "adamw": shifted(9.0)[:5]}))
    assert (verdict.kind, leaders(verdict)) == ("none", ["adamw", "sgd"])
    assert verdict.headline.startswith("No verdict")


def test_one_failure_is_a_result_and_no_exclusion():
    verdict = judge(study({"sgd": shifted(-30.0), "adamw": [*SGD[:-1], None]}))
    assert leaders(verdict)[0] == "adamw"
    assert verdict.headline == "AdamW and SGD are not told apart; AdamW failed on 1 of 8 seeds"
    assert any("counts as the worst outcome" in note for note in verdict.notes)


def test_the_better_one_wins_though_it_failed_once_of_sixteen():
    verdict = judge(study({"sgd": [*shifted(-30.0), *shifted(-30.2)], "adamw": [*SGD, *SGD[:-1], None]}))
    assert verdict.headline == "AdamW wins; AdamW failed on 1 of 16 seeds"


def test_one_that_always_fails_loses_and_the_headline_says_so():
    verdict = judge(study({"sgd": [None] * 8, "adamw": SGD}))
    assert verdict.headline == "AdamW wins; SGD failed on 8 of 8 seeds"


def test_nobody_leads_when_all_diverged():
    verdict = judge(study({"sgd": [None] * 8, "adamw": [None] * 8}))
    assert (verdict.kind, leaders(verdict), verdict.code) == ("none", [], [])
    assert verdict.headline == "No verdict: every optimizer failed"
    assert "none can be recommended" in verdict.sentence


def notes(tuning, tests=None) -> list[str]:
    return list(judge(study(tests or {"sgd": SGD, "adamw": SGD}, tuning=tuning)).notes)


def test_a_range_that_was_extended_is_noted_and_a_better_rate_that_may_lie_beyond():
    found = notes({"sgd": [90.0, 80.0, 70.0], "adamw": [70.0, 90.0, 80.0]})
    about = [note for note in found if "was extended to" in note]
    assert len(about) == 1
    assert about[0].startswith("SGD's best lr / (1 - momentum) was on the border of 0.001 to 10")
    assert not [note for note in found if "may lie beyond" in note], "the decade beyond was worse"


def test_a_best_rate_that_is_still_the_outermost_is_noted():
    # All of SGD's rates are equally bad beyond, so the two extensions end on a border only if it is best.
    made = study({"sgd": SGD, "adamw": SGD}, tuning={"sgd": [90.0, 80.0, 70.0], "adamw": [70.0, 90.0, 80.0]})
    records = [
        replace(r, validation=r.validation._replace(metric=99.0 + 1 / r.trial.lr))
        if r.trial.name == "sgd" and r.trial.stage == "extend"
        else r
        for r in made.records
    ]
    found = judge(made.holding(records)).notes
    assert (
        "SGD's best lr / (1 - momentum) is still the lowest that was tried; a better one may lie beyond."
        in found
    )


def test_failed_trials_are_noted():
    found = notes({"sgd": [80.0, 90.0, None], "adamw": [70.0, 90.0, 80.0]})
    assert "SGD failed in 1 of 3 tuning trials (diverged 1)." in found


def test_an_optimizer_that_always_failed_is_noted_and_never_leads():
    tests = {"sgd": [None] * 8, "adamw": SGD}
    verdict = judge(study(tests, tuning={"sgd": [None] * 3, "adamw": [70.0, 90.0, 80.0]}))
    assert "SGD has no configuration: it failed in every trial." in verdict.notes
    assert leaders(verdict) == ["adamw"]


def test_a_margin_of_zero_is_noted():
    assert any(
        "margin is zero" in note for note in judge(study({"sgd": SGD, "adamw": SGD}, margin=0.0)).notes
    )


def test_a_margin_of_zero_decides_nothing_where_nothing_was_measured():
    nothing = dict.fromkeys(("sgd", "adamw"), [None] * 8)
    tuning = dict.fromkeys(nothing, [None] * 3)
    assert not any("margin" in note for note in judge(study(nothing, tuning=tuning, margin=0.0)).notes)


def test_seeds_that_gave_the_same_runs_are_no_evidence():
    verdict = judge(study({"sgd": [90.0] * 8, "adamw": [95.0] * 8}))
    assert (verdict.kind, verdict.headline) == ("none", "No verdict: all seeds gave exactly the same runs")
    assert "that may be the luck of one" in verdict.sentence
    assert judge(study({"sgd": [90.0] * 8, "adamw": shifted(5.0)})).kind == "winner"


def test_a_tie_names_the_cheapest():
    made = study({"sgd": SGD, "adamw": shifted(0.1)})
    cheap = [
        replace(r, state_bytes=4, timing=replace(r.timing, step_ms=0.05)) if r.trial.name == "sgd" else r
        for r in made.records
    ]
    assert any(
        "SGD is the cheapest: 0.05 ms a step and 4 bytes" in n for n in judge(made.holding(cheap)).notes
    )
    # Faster but larger is not cheaper.
    mixed = [replace(r, state_bytes=400) if r.trial.name == "sgd" else r for r in cheap]
    assert not any("cheapest" in note for note in judge(made.holding(mixed)).notes)


def test_conditions_say_under_what_this_was_found():
    conditions = judge(study({"sgd": SGD, "adamw": SGD})).conditions
    for part in (
        "scores",
        "batches of 8",
        "no norm layers",
        "40 steps",
        "3 configurations",
        "8 paired seeds",
    ):
        assert part in conditions

    class Normed(Scores):
        clip_norm = 0.5

        def model(self, seed):
            return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.LayerNorm(3), nn.Linear(3, 1))

    conditions = judge(study({"sgd": SGD, "adamw": SGD}, workload=Normed())).conditions
    assert "BatchNorm1d and LayerNorm, gradients clipped to norm 0.5" in conditions


def test_conditions_are_those_of_each_recipe():
    own = [Recipe("large", "adamw", batch_size=64, steps=2000, clip_norm=0.5).space([])]
    conditions = judge(study({"sgd": SGD, "large": SGD}, own=own)).conditions
    assert "batches of 8 (SGD) and 64 (large)" in conditions
    assert "gradients clipped to none (SGD) and norm 0.5 (large)" in conditions
    assert "40 (SGD) and 2,000 (large) steps a run" in conditions
    alone = [Recipe(name, "adamw", batch_size=64).space([]) for name in ("one", "two")]
    assert "batches of 64, " in judge(study({"one": SGD, "two": SGD}, own=alone)).conditions


def test_a_leaders_code_is_what_was_measured():
    made = study({"sgd": SGD, "adamw": shifted(0.6)})
    verdict = judge(made)
    trial = made.final_of(verdict.leaders[0].space)[0].trial
    assert verdict.code == [code(trial.optimizer, trial.settings)]


# Studies that are not finished


def unfinished(made, keep):
    return made.holding([r for r in made.records if keep(r.trial)])


def test_a_study_without_any_record_can_be_judged():
    made = study({"sgd": SGD, "adamw": SGD})
    verdict = judge(made.holding([]))
    assert (verdict.kind, leaders(verdict)) == ("none", [])
    assert verdict.headline == "No verdict yet: the comparison is not finished"
    assert verdict.sentence == "No optimizer has been measured on a fresh seed."
    assert "Not finished: 0 runs were made. The same command goes on from there." in verdict.notes


def test_a_study_can_be_judged_after_any_run():
    made = study({"sgd": SGD, "adamw": shifted(0.6), "lion": [None] * 8})
    for count in range(len(made.records)):
        verdict = judge(made.holding(made.records[:count]))
        assert any(note.startswith(f"Not finished: {count} runs") for note in verdict.notes)
        measured = {row.space.name: row.measured for row in verdict.ranking}
        if min(measured["sgd"], measured["adamw"]) < 7:
            assert verdict.kind == "none"
            assert verdict.headline.startswith("No verdict yet")
    assert not any("Not finished" in note for note in judge(made).notes)


def test_only_a_look_gives_a_verdict_before_the_end():
    made = study({"sgd": SGD, "adamw": shifted(0.6)})
    fresh = protocol.seeds(made.settings)[2]
    part = unfinished(made, lambda t: t.stage != "final" or t.seed in fresh[:6])
    assert judge(part).kind == "none", "it was not to be looked at yet"
    looked = replace(made.settings, looks=(6, 8))
    assert judge(replace(part, settings=looked)).headline == "AdamW wins"


@pytest.mark.parametrize("seeds", [1, 2])
def test_very_few_seeds_can_be_judged(seeds):
    verdict = judge(study({"sgd": SGD[:seeds], "adamw": shifted(9.0)[:seeds]}))
    assert verdict.headline == f"No verdict: 6 seeds are the fewest that can tell, not {seeds}"
    assert "that may be luck" in verdict.sentence


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(80, 84)] * 4), min_size=8, max_size=9),
    st.randoms(use_true_random=False),
)
def test_verdict_does_not_depend_on_the_order_of_the_optimizers(seeds, order):
    names = ["sgd", "adam", "adamw", "rmsprop"]
    tests = {name: [float(metrics[place]) for metrics in seeds] for place, name in enumerate(names)}
    shuffled = random.Random(order.random()).sample(names, len(names))
    here, there = judge(study(tests)), judge(study({name: tests[name] for name in shuffled}))
    assert (here.kind, leaders(here)) == (there.kind, leaders(there))
    assert (here.headline, here.sentence, here.code) == (there.headline, there.sentence, there.code)


@pytest.mark.parametrize(
    ("items", "text"),
    [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")],
)
def test_listed(items, text):
    assert listed(items) == text


def test_a_headline_of_many_stays_one():
    names = ["sgd", "adam", "adamw", "rmsprop", "lion", "nadam", "radam"]
    noise = random.Random(0)
    tests = {name: [90 + noise.gauss(0, 1) for _ in range(24)] for name in names}
    for name in names[:3]:
        tests[name][0] = None
    verdict = judge(study(tests))
    assert re.fullmatch(
        r"\w+, \w+ and 5 others are not told apart; 3 optimizers failed on some seeds", verdict.headline
    )
    assert len(verdict.sentence) < 600
    assert re.search(r"as far ahead of \w+, \w+ and \w+; it is not told apart from", verdict.sentence)
    assert re.search(r"from \w+, \w+, \w+ and 3 others, which would take about \d+ to ", verdict.sentence)
    assert "to about" not in verdict.sentence


def test_what_many_failed_in_is_one_note():
    tuning = {"sgd": [80.0, 90.0, None], "adamw": [70.0, 90.0, None]}
    assert "AdamW and SGD each failed in 1 of 3 tuning trials (diverged 1)." in notes(tuning)
